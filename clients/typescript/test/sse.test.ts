import fc from "fast-check";
import { expect, test } from "vitest";
import { type Frame, FrameParser } from "../src/sse.js";

const bytes = (text: string) => new TextEncoder().encode(text);
const parse = (...chunks: Uint8Array[]): Frame[] => {
  const parser = new FrameParser();
  return chunks.flatMap((chunk) => parser.feed(chunk));
};

const line = fc.oneof(
  fc.constantFrom("data", "data:", "data: ", "data:  x", "id: g.1", "id", "id: a\0b", "event: token", "event:", "retry: 5", "retry: x", ": beat", ":", "", "", "unknown: x", "data: ü😀 "),
  fc.string().map((text) => `data: ${text.replace(/[\r\n]/g, "")}`),
);
const stream = fc
  .array(fc.tuple(line, fc.constantFrom("\n", "\r\n", "\r")))
  .map((lines) => lines.map(([text, end]) => text + end).join("") + "data: last\n\n");

test("however a stream is cut into chunks, the frames are the same", () => {
  fc.assert(
    fc.property(stream, fc.array(fc.nat(40)), (text, cuts) => {
      const whole = bytes(text);
      const chunks: Uint8Array[] = [];
      let at = 0;
      for (const cut of cuts) chunks.push(whole.subarray(at, (at += cut)));
      chunks.push(whole.subarray(at));
      expect(parse(...chunks)).toEqual(parse(whole));
    }),
  );
});

test("a frame that is cut off does not come out", () => {
  fc.assert(
    fc.property(stream, fc.nat(), (text, at) => {
      const whole = bytes(text);
      const all = parse(whole);
      const some = parse(whole.subarray(0, at % (whole.length + 1)));
      expect(all.slice(0, some.length)).toEqual(some);
    }),
  );
});

test.each([
  ["a byte order mark is passed over", "\uFEFFdata: x\n\n", [{ id: "", event: "message", data: "x" }]],
  ["lines of data are joined", "data: a\ndata:\ndata: b\n\n", [{ id: "", event: "message", data: "a\n\nb" }]],
  ["a frame without data is none, and its event is forgotten", "event: a\n\ndata: x\n\n", [{ id: "", event: "message", data: "x" }]],
  ["an id stays until the next one", "id: 1\ndata: a\n\ndata: b\n\nid\ndata: c\n\n", [
    { id: "1", event: "message", data: "a" },
    { id: "1", event: "message", data: "b" },
    { id: "", event: "message", data: "c" },
  ]],
  ["comments are passed over", ": hello\n\ndata: a\n: x\ndata: b\n\n", [{ id: "", event: "message", data: "a\nb" }]],
  ["one space is taken off, no more", "data:  a\n\n", [{ id: "", event: "message", data: " a" }]],
])("%s", (_name, text, frames) => expect(parse(bytes(text))).toEqual(frames));

test("the retry time is read", () => {
  const parser = new FrameParser();
  parser.feed(bytes("retry: 1500\n\n"));
  expect(parser.retryMs).toBe(1500);
});

test("a frame that never ends is an error", () => {
  const parser = new FrameParser();
  const chunk = bytes("x".repeat(1 << 20));
  expect(() => {
    for (let at = 0; at < 20; at++) parser.feed(chunk);
  }).toThrow("without an end");
});
