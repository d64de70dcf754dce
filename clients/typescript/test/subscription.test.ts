/** What a subscription does with everything that a network and a server can do to it. */

import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, expect, test } from "vitest";
import { connect, type Item, RunstreamError, type SubscribeOptions } from "../src/index.js";

type Answer = (request: IncomingMessage, response: ServerResponse) => void;

let server: Server | undefined;
afterEach(() => (server?.closeAllConnections(), server?.close()));

/** A server that gives one answer after the other, and the requests that it got. */
async function serve(...answers: Answer[]) {
  const requests: IncomingMessage[] = [];
  server = createServer((request, response) => {
    requests.push(request);
    (answers[requests.length - 1] ?? problem(404, "run_not_found"))(request, response);
  });
  await new Promise<void>((resolve) => server!.listen(0, "127.0.0.1", resolve));
  return { requests, url: `http://127.0.0.1:${(server.address() as AddressInfo).port}` };
}

const frame = (seq: number, kind = "token", generation = "g") =>
  `id: ${generation}.${seq}\nevent: ${kind}\ndata: ${JSON.stringify({ seq, time: "t", run_id: "r", kind, data: { n: seq } })}\n\n`;
const END = 'event: stream.end\ndata: {"reason":"ended"}\n\n';

const stream = (text: string, cut = false): Answer => (_request, response) => {
  response.writeHead(200, { "content-type": "text/event-stream" });
  response.write(text, () => (cut ? response.destroy() : response.end()));
};
const problem = (status: number, code: string, more: object = {}, headers: { [name: string]: string } = {}): Answer => (_request, response) => {
  response.writeHead(status, { "content-type": "application/problem+json", ...headers });
  response.end(JSON.stringify({ type: "about:blank", title: code, status, code, detail: `said ${code}`, ...more }));
};

async function all(url: string, options: SubscribeOptions = {}, token?: () => string): Promise<Item[]> {
  const items: Item[] = [];
  const streams = token ? connect({ url, token }) : connect({ url });
  for await (const item of streams.subscribe("r", options)) items.push(item);
  return items;
}
const seqs = (items: Item[]) => items.map((item) => ("seq" in item ? item.seq : item.kind));

test("records come out in order, with their cursors, until the end", async () => {
  const { url } = await serve(stream(frame(1) + ": \n\n" + frame(2, "run.completed") + END));
  const items = await all(url);
  expect(items).toEqual([
    { seq: 1, time: "t", run_id: "r", kind: "token", data: { n: 1 }, cursor: "g.1" },
    { seq: 2, time: "t", run_id: "r", kind: "run.completed", data: { n: 2 }, cursor: "g.2" },
  ]);
});

test("a connection cut in the middle of a frame goes on behind the last whole record", async () => {
  const half = frame(3).slice(0, -9);
  const { url, requests } = await serve(stream(frame(1) + frame(2) + half, true), stream(frame(3) + END));
  expect(seqs(await all(url, { fromSeq: 1, kinds: "token" }))).toEqual([1, 2, 3]);
  expect(requests[0]!.url).toBe("/v1/runs/r/events?kinds=token&from_seq=1");
  expect(requests[0]!.headers["last-event-id"]).toBeUndefined();
  expect(requests[1]!.url).toBe("/v1/runs/r/events?kinds=token");
  expect(requests[1]!.headers["last-event-id"]).toBe("g.2");
});

test("a filtered stream goes on behind what it was moved past", async () => {
  const { url, requests } = await serve(
    stream(`${frame(1)}id: g.50\nevent: stream.cursor\ndata: {}\n\n`, true),
    stream(END),
  );
  expect(seqs(await all(url))).toEqual([1]);
  expect(requests[1]!.headers["last-event-id"]).toBe("g.50");
});

test("a server that stops, is busy or away is asked again", async () => {
  const stopped = 'event: stream.error\ndata: {"code":"log_closed","status":503,"detail":"stopping"}\n\n';
  const { url, requests } = await serve(
    problem(503, "log_unavailable"),
    stream(frame(1) + stopped),
    problem(429, "too_many_subscribers", {}, { "retry-after": "0.01" }),
    (_request, response) => void response.destroy(),
    (_request, response) => void response.writeHead(502, { "content-type": "text/html" }).end("<html>bad gateway"),
    stream(frame(2) + END),
  );
  const states: string[] = [];
  expect(seqs(await all(url, { onState: (state, error) => states.push(error ? `${state} ${error.code}` : state) }))).toEqual([1, 2]);
  expect(requests.length).toBe(6);
  expect(states).toEqual([
    "connecting", "reconnecting log_unavailable", "open", "reconnecting log_closed", "reconnecting too_many_subscribers",
    "reconnecting unreachable", "reconnecting unreachable", "open", "ended",
  ]);
});

test("a run that ended before the reconnection is over", async () => {
  const { url } = await serve(stream(frame(1), true), (_request, response) => void response.writeHead(204).end());
  expect(seqs(await all(url))).toEqual([1]);
});

test.each([
  [400, "invalid_input"],
  [401, "unauthorized"],
  [403, "forbidden"],
  [404, "run_not_found"],
  [409, "invalid_position"],
  [501, "streaming_off"],
])("%i is a typed error, at once", async (status, code) => {
  const { url, requests } = await serve(problem(status, code));
  const error = await all(url).catch((thrown: unknown) => thrown);
  expect(error).toBeInstanceOf(RunstreamError);
  expect(error).toMatchObject({ code, status, message: `said ${code}` });
  expect(requests.length).toBe(1);
});

test("a server that sends HTML is none of ours", async () => {
  const { url } = await serve((_request, response) => void response.writeHead(200, { "content-type": "text/html" }).end("<html>"));
  await expect(all(url)).rejects.toMatchObject({ code: "not_a_server" });
});

test("a frame that is not JSON is an error, behind what came before it", async () => {
  const { url } = await serve(stream(frame(1) + "id: g.2\ndata: <b>\n\n"));
  const items: Item[] = [];
  const follow = async () => {
    for await (const item of connect({ url }).subscribe("r")) items.push(item);
  };
  await expect(follow()).rejects.toMatchObject({ code: "not_a_server" });
  expect(seqs(items)).toEqual([1]);
});

test("a rebuilt stream is told as a gap, then read from its first record", async () => {
  const { url, requests } = await serve(
    stream(frame(7), true),
    problem(410, "generation_changed", { first_seq: 1, generation: "h" }),
    stream(frame(1, "token", "h") + END),
  );
  const items = await all(url);
  expect(seqs(items)).toEqual([7, "stream.gap", 1]);
  expect(items[1]).toMatchObject({ cursor: "h.0", data: { reason: "generation_changed", from_seq: 8, to_seq: null, next_seq: 1 } });
  expect(requests[2]!.headers["last-event-id"]).toBe("h.0");
});

test("trimmed records are told as a gap", async () => {
  const { url } = await serve(stream(frame(2), true), problem(410, "position_gone", { first_seq: 9 }), stream(frame(9) + END));
  const items = await all(url);
  expect(seqs(items)).toEqual([2, "stream.gap", 9]);
  expect(items[1]).toMatchObject({ data: { reason: "trimmed", from_seq: 3, to_seq: 8, next_seq: 9 } });
});

test("a gap that the server sends is passed on, and moves the cursor", async () => {
  const gap = `id: g.8\nevent: stream.gap\ndata: ${JSON.stringify({ run_id: "r", kind: "stream.gap", time: "t", data: { reason: "trimmed", from_seq: 1, to_seq: 8, next_seq: 9 } })}\n\n`;
  const { url, requests } = await serve(stream(gap, true), stream(frame(9) + END));
  expect(seqs(await all(url))).toEqual(["stream.gap", 9]);
  expect(requests[1]!.headers["last-event-id"]).toBe("g.8");
});

test("an expired token is asked for again, at the start and in the middle", async () => {
  const expired = 'event: stream.error\ndata: {"code":"unauthorized","status":401,"detail":"expired"}\n\n';
  const { url, requests } = await serve(problem(401, "unauthorized"), stream(frame(1) + expired), stream(frame(2) + END));
  let count = 0;
  expect(seqs(await all(url, {}, () => `t${++count}`))).toEqual([1, 2]);
  expect(requests.map((request) => request.headers.authorization)).toEqual(["Bearer t1", "Bearer t2", "Bearer t3"]);
});

test("a token that stays refused is an error", async () => {
  const { url, requests } = await serve(problem(401, "unauthorized"), problem(401, "unauthorized"));
  await expect(all(url, {}, () => "bad")).rejects.toMatchObject({ code: "unauthorized" });
  expect(requests.length).toBe(2);
});

test("an aborted subscription ends with the reason, also while it waits to reconnect", async () => {
  const { url } = await serve(stream(frame(1), true), problem(503, "log_unavailable", {}, { "retry-after": "60" }));
  const leave = new AbortController();
  const onState = (state: string, error?: RunstreamError) => {
    if (error?.code === "log_unavailable") queueMicrotask(() => leave.abort(new Error("enough")));
  };
  await expect(all(url, { signal: leave.signal, onState })).rejects.toThrow("enough");
});

test("leaving the loop closes the connection", async () => {
  let closed: () => void;
  const gone = new Promise<void>((resolve) => (closed = resolve));
  const { url } = await serve((request, response) => {
    response.on("close", () => closed());
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.write(frame(1));
  });
  for await (const _item of connect({ url }).subscribe("r")) break;
  await gone;
});

test("who awaits a run's result hears it also from a server that was away", async () => {
  const { url, requests } = await serve(problem(503, "log_unavailable", {}, { "retry-after": "0" }), stream(frame(10, "run.completed") + END));
  expect(await connect({ url }).handler("r").result()).toBeUndefined();
  expect(requests[1]!.url).toMatch(/^[/]v1[/]runs[/]r[/]events[?](kinds=run[.][a-z_]+&){5}last=0$/);
});

test("who awaits a run's result looks for what is to come, then at the newest end, then at all", async () => {
  const nothing: Answer = (_request, response) => response.writeHead(204).end();
  const childs = frame(9, "run.failed").replace('"run_id":"r"', '"run_id":"child"');
  const { url, requests } = await serve(nothing, stream(childs + END), stream(childs + frame(10, "run.completed") + END));
  expect(await connect({ url }).handler("r").result()).toBeUndefined();
  expect(requests.map(({ url }) => /last=(\d)/.exec(url!)?.[1])).toEqual(["0", "1", undefined]);
});

test("a run is removed, or the server's reason thrown", async () => {
  const { url, requests } = await serve((_request, response) => response.writeHead(204).end(), problem(400, "invalid_input"));
  await connect({ url }).removeRun("r 1");
  expect([requests[0]!.method, requests[0]!.url]).toEqual(["DELETE", "/v1/runs/r%201"]);
  await expect(connect({ url }).removeRun("r")).rejects.toMatchObject({ code: "invalid_input", message: "said invalid_input" });
});
