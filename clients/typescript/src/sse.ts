/** Server-sent events as the HTML standard defines them: bytes in any chunks, whole frames out. */

export interface Frame {
  /** The last `id:` of the stream, this frame's or an earlier one's; "" before the first. */
  id: string;
  event: string;
  data: string;
}

/** Longer than any record with its envelope; whatever sends more is not a server of ours. */
const FRAME_LENGTH_MAX = 16 * 1024 * 1024;

/** Feed it chunks. A frame that is cut off, by whatever, never comes out. */
export class FrameParser {
  /** What the server asked clients to wait before they come back (ms). */
  retryMs: number | undefined;
  #decoder = new TextDecoder();
  #rest = "";
  #id = "";
  #event = "";
  #data: string | undefined;

  /** The frames that the chunk completes. Throws if one grows beyond all bounds. */
  feed(chunk: Uint8Array): Frame[] {
    let text = this.#rest + this.#decoder.decode(chunk, { stream: true });
    let held = "";
    if (text.includes("\r")) {
      // A line ends with CR, LF or both; a CR that came last may have its LF in the next chunk.
      if (text.endsWith("\r")) [text, held] = [text.slice(0, -1), "\r"];
      text = text.replace(/\r\n?/g, "\n");
    }
    const frames: Frame[] = [];
    let from = 0;
    for (let end; (end = text.indexOf("\n", from)) >= 0; from = end + 1) {
      if (end > from) this.#line(text, from, end);
      else if (this.#data !== undefined) {
        frames.push({ id: this.#id, event: this.#event || "message", data: this.#data });
        this.#event = "";
        this.#data = undefined;
      } else this.#event = "";
    }
    this.#rest = text.slice(from) + held;
    if (this.#rest.length + (this.#data?.length ?? 0) > FRAME_LENGTH_MAX) throw new Error("a frame without an end");
    return frames;
  }

  #line(text: string, from: number, end: number): void {
    let colon = text.indexOf(":", from);
    if (colon < 0 || colon > end) colon = end;
    const value = text.slice(colon + (text[colon + 1] === " " ? 2 : 1), end);
    switch (text.slice(from, colon)) {
      case "data":
        this.#data = this.#data === undefined ? value : `${this.#data}\n${value}`;
        break;
      case "event":
        this.#event = value;
        break;
      case "id":
        if (!value.includes("\0")) this.#id = value;
        break;
      case "retry":
        if (/^\d+$/.test(value)) this.retryMs = Number(value);
    }
  }
}
