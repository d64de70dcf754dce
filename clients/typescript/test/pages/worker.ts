/** What tests/browser/test_workers.py starts: a worker that follows the run it is told of, and publishes into it. */

import { connect, RunstreamError } from "../../src/index.js";

addEventListener("message", async ({ data }: MessageEvent<{ url: string; runId: string }>) => {
  const streams = connect({ url: data.url });
  try {
    await streams.publish(data.runId, { text: "from the worker" }, { kind: "note" });
    const seqs: number[] = [];
    for await (const items of streams.pages(data.runId)) for (const item of items) if ("seq" in item) seqs.push(item.seq);
    postMessage({ seqs });
  } catch (error) {
    postMessage({ error: error instanceof RunstreamError ? error.code : String(error) });
  }
});
