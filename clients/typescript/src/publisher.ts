/** Publishing into a run: one batch in flight, sent again unchanged until the server answers. */

import { RunstreamError } from "./errors.js";
import { type Http, runPath, sleep } from "./http.js";

export interface PublishOptions {
  kind?: string;
  topic?: string;
  correlationId?: string;
  index?: number;
}

/** Events in one request; the server takes 1 000 and 4 MiB. */
const BATCH_MAX = 500;
/** Tries of one batch before its events fail: about a minute and a half. */
const TRIES_MAX = 12;

interface Waiting {
  event: unknown;
  resolve: () => void;
  reject: (error: unknown) => void;
}

export class Publisher {
  readonly #id = crypto.getRandomValues(new BigUint64Array(1))[0]!.toString(36);
  readonly #waiting: Waiting[] = [];
  #number = 1;
  #isSending = false;

  constructor(
    private readonly http: Http,
    private readonly runId: string,
  ) {}

  /** Resolves when the event is stored; events keep their order. */
  publish(data: unknown, { kind = "event", topic, correlationId, index }: PublishOptions): Promise<void> {
    const event = { kind, data, topic, correlation_id: correlationId, index, time: new Date().toISOString() };
    return new Promise((resolve, reject) => {
      this.#waiting.push({ event, resolve, reject });
      if (!this.#isSending) void this.#send();
    });
  }

  async #send(): Promise<void> {
    this.#isSending = true;
    await null; // what is published in the same turn goes together
    while (this.#waiting.length > 0) {
      const batch = this.#waiting.splice(0, BATCH_MAX);
      try {
        await this.#sendBatch(batch.map(({ event }) => event));
        this.#number += batch.length;
        for (const { resolve } of batch) resolve();
      } catch (error) {
        // Nothing of it is stored, so its numbers are free for the next one.
        for (const { reject } of batch) reject(error);
      }
    }
    this.#isSending = false;
  }

  async #sendBatch(events: unknown[]): Promise<void> {
    const body = { producer: { id: this.#id, epoch: 0, number: this.#number }, events };
    for (let tries = 1; ; tries++) {
      try {
        await this.http.json("POST", runPath(this.runId, "/events"), { body });
        return;
      } catch (error) {
        if (!(error instanceof RunstreamError && error.isTemporary) || tries === TRIES_MAX) throw error;
        const pause = error.retryAfterMs ?? Math.min(100 * 2 ** tries, 10_000) * (0.5 + Math.random() / 2);
        await sleep(pause);
      }
    }
  }
}
