/** What a server, or the way to it, answers instead of what was asked for. */

/** The codes of the HTTP API, and three that only a client knows. */
export type ErrorCode =
  | "invalid_input" | "invalid_payload" | "payload_too_large" | "request_too_large"
  | "unauthorized" | "forbidden" | "run_not_found" | "workflow_not_found" | "not_found"
  | "run_ended" | "producer_fenced" | "number_gap" | "lease_held" | "lease_lost"
  | "invalid_position" | "position_gone" | "generation_changed"
  | "too_many_subscribers" | "streaming_off" | "log_unavailable" | "log_closed" | "internal"
  | "unreachable" | "not_a_server" | "run_failed"
  | (string & {});

/** `code` is stable, for programs; the message says what to do. `status` is HTTP's (0: no answer). */
export class RunstreamError extends Error {
  override name = "RunstreamError";
  readonly code: ErrorCode;
  readonly status: number;
  /** With `position_gone` and `generation_changed`: the first record that is still there. */
  readonly firstSeq: number | undefined;
  /** With `generation_changed`: the present one. */
  readonly generation: string | undefined;
  /** What the server asked to wait before the next try (ms). */
  readonly retryAfterMs: number | undefined;

  constructor(code: ErrorCode, message: string, status = 0, more: { [name: string]: any } = {}) {
    super(message);
    this.code = code;
    this.status = status;
    this.firstSeq = more["first_seq"];
    this.generation = more["generation"];
    this.retryAfterMs = more["retryAfterMs"];
  }

  /** Whether the same request may succeed later. */
  get isTemporary(): boolean {
    return this.status === 0 ? this.code === "unreachable" : this.status === 429 || (this.status >= 500 && this.status !== 501);
  }
}

/** The error that an answer tells of; of one that is not the API's (a proxy's HTML, say), its status. */
export async function errorOf(response: Response): Promise<RunstreamError> {
  const after = Number(response.headers.get("retry-after")) * 1000 || undefined;
  try {
    const { code, detail, ...more } = (await response.json()) as { [name: string]: any };
    if (typeof code === "string") return new RunstreamError(code, detail, response.status, { ...more, retryAfterMs: after });
  } catch {
    // not JSON, or cut off
  }
  const code = response.status >= 500 ? "unreachable" : response.status === 401 ? "unauthorized" : "not_a_server";
  return new RunstreamError(code, `${response.url} answered ${response.status}`, response.status, { retryAfterMs: after });
}
