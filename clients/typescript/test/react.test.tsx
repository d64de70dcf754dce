// @vitest-environment jsdom
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { StrictMode, useState } from "react";
import { flushSync } from "react-dom";
import { createRoot, type Root } from "react-dom/client";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { RunstreamProvider, useRun, useTask, useText } from "../src/react/index.js";

let server: Server;
let url: string;
let requests: IncomingMessage[];
let open: ServerResponse[];
let root: Root;
let page: HTMLElement;

beforeEach(async () => {
  [requests, open] = [[], []];
  sessionStorage.clear();
  server = createServer((request, response) => {
    response.setHeader("access-control-allow-origin", "*");
    response.setHeader("access-control-allow-headers", "*");
    if (request.method === "OPTIONS") return void response.writeHead(204).end();
    requests.push(request);
    open.push(response);
    response.writeHead(200, { "content-type": "text/event-stream" }).write(": \n\n");
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  mount();
});
afterEach(() => {
  flushSync(() => root.unmount());
  server.closeAllConnections();
  server.close();
});

function mount() {
  page = document.createElement("div");
  root = createRoot(page);
}

let seq = 0;
const say = (kind: string, data: unknown, more: object = {}) => {
  seq += 1;
  const record = { seq, time: "t", run_id: "r", kind, data, ...more };
  open.at(-1)!.write(`id: g.${seq}\nevent: ${kind}\ndata: ${JSON.stringify(record)}\n\n`);
};
const shows = (text: string) => vi.waitFor(() => expect(page.textContent).toBe(text), { timeout: 5000 });
const render = (app: React.ReactNode) =>
  flushSync(() => root.render(<StrictMode><RunstreamProvider url={url} token={() => ""}>{app}</RunstreamProvider></StrictMode>));

beforeEach(() => void (seq = 0));

function Status() {
  const { status, lastSeq, state } = useRun("r");
  return <i>{`${status} ${lastSeq} ${state};`}</i>;
}
const Text = ({ id }: { id: string }) => <b>{useText("r", { correlationId: id })};</b>;
const Tokens = () => <u>{JSON.stringify(useTask<{ n: number }>("r", "count")?.state.n)};</u>;

test("all hooks of a page share one connection, also in strict mode", async () => {
  render(<><Status /><Text id="a" /><Text id="b" /><Tokens /></>);
  await vi.waitFor(() => expect(requests.length).toBe(1));
  say("run.started", { workflow: "w" });
  say("token", { text: "Hel" }, { correlation_id: "a" });
  say("token", { text: "Wor" }, { correlation_id: "b" });
  say("task.started", { task_id: "1", version: 0, state: { n: 1 } }, { topic: "count" });
  say("task.progress", { task_id: "1", version: 1, patch: [{ op: "replace", path: "/n", value: 2 }] }, { topic: "count" });
  await shows("running 5 open;Hel;Wor;2;");
  say("token", { text: "lo" }, { correlation_id: "a" });
  say("run.completed", { result: 1 });
  open[0]!.end('event: stream.end\ndata: {"reason":"ended"}\n\n');
  await shows("completed 7 ended;Hello;Wor;2;");
  expect(requests.length).toBe(1);
});

test("a retried step's text is taken back", async () => {
  render(<Text id="a" />);
  await vi.waitFor(() => expect(requests.length).toBe(1));
  say("token", { text: "Call " }, { correlation_id: "a", step_run_id: "s", attempt: 1 });
  await shows("Call ;");
  say("step.retrying", { attempt: 1 }, { step_run_id: "s", attempt: 1 });
  await shows(";");
});

test("a reloaded page goes on where it was", async () => {
  render(<><Status /><Text id="a" /></>);
  await vi.waitFor(() => expect(requests.length).toBe(1));
  say("run.started", { workflow: "w" });
  say("token", { text: "Hel" }, { correlation_id: "a" });
  await shows("running 2 open;Hel;");
  window.dispatchEvent(new Event("pagehide"));
  flushSync(() => root.unmount());
  vi.resetModules(); // a reload: no module remembers anything
  const fresh = await import("../src/react/index.js");
  mount();
  const Again = () => <p>{`${fresh.useRun("r").lastSeq} ${fresh.useText("r", { correlationId: "a" })}`}</p>;
  flushSync(() => root.render(<fresh.RunstreamProvider url={url}><Again /></fresh.RunstreamProvider>));
  expect(page.textContent).toBe("2 Hel");
  await vi.waitFor(() => expect(requests.length).toBe(2));
  expect(requests[1]!.url).toContain("after=g.2");
  say("token", { text: "lo" }, { correlation_id: "a" });
  await shows("3 Hello");
});

test("what an older page has saved in another form is read again from the start", async () => {
  sessionStorage.setItem("runstream:r", '{"cursor": "g.5"}');
  render(<Status />);
  await vi.waitFor(() => expect(requests.length).toBe(1));
  expect(requests[0]!.url).not.toContain("after");
});

test("the connection is closed when nobody looks any more, and kept when somebody moves", async () => {
  let show: (shown: boolean) => void;
  const App = () => {
    const [shown, setShown] = useState(true);
    show = setShown;
    return shown ? <Text id="a" /> : <Status />;
  };
  render(<App />);
  await vi.waitFor(() => expect(requests.length).toBe(1));
  flushSync(() => show(false));
  say("run.started", { workflow: "w" });
  await shows("running 1 open;");
  expect(requests.length).toBe(1);
  const closed = new Promise((resolve) => open[0]!.on("close", resolve));
  flushSync(() => root.unmount());
  await closed;
});

test("an error is shown, not thrown", async () => {
  server.removeAllListeners("request");
  server.on("request", (_request, response) => {
    response.writeHead(404, { "content-type": "application/problem+json", "access-control-allow-origin": "*" });
    response.end('{"code":"run_not_found","detail":"no such run","status":404}');
  });
  const Failed = () => <p>{useRun("r").error?.message}</p>;
  flushSync(() => root.render(<RunstreamProvider url={url}><Failed /></RunstreamProvider>));
  await shows("no such run");
});

test("a task that its run left open is lost, and does not stand before a newer one of its topic", async () => {
  const Count = () => <p>{JSON.stringify([useTask("r", "count")?.status, useTask("r", "old")?.status])}</p>;
  render(<Count />);
  await vi.waitFor(() => expect(requests.length).toBe(1));
  for (const [id, topic] of [["1", "old"], ["2", "old"], ["3", "count"]]) say("task.started", { task_id: id, version: 0, state: {} }, { topic });
  say("task.completed", { task_id: "2", version: 1, state: {} }, { topic: "old" });
  await shows('["running","completed"]');
  say("run.lost", { reason: "lease_lapsed" });
  await shows('["lost","completed"]');
});
