/** Requests to one server: its address, its token, and its errors. */

import { errorOf, RunstreamError } from "./errors.js";

export interface ConnectOptions {
  /** The server, such as `http://127.0.0.1:4747`; a path prefix is kept. */
  url: string | URL;
  /** A bearer token, or a function that gets one; it is asked again when a token is refused (401). */
  token?: string | (() => string | Promise<string>);
  /** Another `fetch`, for tests and for runtimes with their own. */
  fetch?: typeof fetch;
}

export type Query = { [name: string]: string | number | boolean | readonly string[] | undefined };

export class Http {
  readonly #base: string;
  readonly #fetch: typeof fetch;
  readonly #getToken: ConnectOptions["token"];
  #token: Promise<string> | undefined;

  constructor({ url, token, fetch: given }: ConnectOptions) {
    this.#base = String(url).replace(/\/+$/, "");
    this.#getToken = token;
    this.#fetch = given ?? ((...args) => fetch(...args));
  }

  /** The answer if it is a success. Throws `RunstreamError`, or the reason of an aborted `signal`. */
  async send(method: string, path: string, init: { query?: Query; headers?: { [name: string]: string }; body?: unknown; signal?: AbortSignal | undefined } = {}): Promise<Response> {
    for (let isFirst = true; ; isFirst = false) {
      const response = await this.#once(method, path, init);
      if (response.ok) return response;
      const error = await errorOf(response);
      if (error.status !== 401 || !isFirst || !this.forgetToken()) throw error;
    }
  }

  async json<T>(method: string, path: string, init?: Parameters<Http["send"]>[2]): Promise<T> {
    const response = await this.send(method, path, init);
    try {
      return (await response.json()) as T;
    } catch {
      throw new RunstreamError("not_a_server", `${response.url} answered no JSON`, response.status);
    }
  }

  /** The next request gets a new token, if there is somebody to ask for one. */
  forgetToken(): boolean {
    this.#token = undefined;
    return typeof this.#getToken === "function";
  }

  async #once(method: string, path: string, { query, headers, body, signal }: NonNullable<Parameters<Http["send"]>[2]>): Promise<Response> {
    const all: { [name: string]: string } = { ...headers };
    const token = await this.#authorization();
    if (token) all["authorization"] = `Bearer ${token}`;
    const init: RequestInit = { method, headers: all, cache: "no-store", signal: signal ?? null };
    if (body !== undefined) {
      all["content-type"] = "application/json";
      init.body = JSON.stringify(body);
    }
    try {
      return await this.#fetch(this.#base + path + search(query), init);
    } catch (error) {
      if (signal?.aborted) throw signal.reason;
      throw new RunstreamError("unreachable", `${this.#base} cannot be reached: ${(error as Error).message}${hint(this.#base)}`);
    }
  }

  #authorization(): Promise<string> | string | undefined {
    if (typeof this.#getToken !== "function") return this.#getToken;
    const asked = (this.#token ??= Promise.resolve(this.#getToken()));
    asked.catch(() => (this.#token = undefined));
    return asked;
  }
}

/** A browser does not say why a page got nothing; if the server is of another origin, this is likely it. */
function hint(base: string): string {
  const { origin = base } = globalThis.location ?? {};
  return base.startsWith(origin) ? "" : ` (or it lacks --cors-origin ${origin})`;
}

/** The address of a run. */
export const runPath = (runId: string, rest = ""): string => `/v1/runs/${encodeURIComponent(runId)}${rest}`;

/** Resolves after the time; throws the reason of an aborted signal. */
export const sleep = (ms: number, signal?: AbortSignal): Promise<void> =>
  new Promise((resolve, reject) => {
    const stop = () => (clearTimeout(timer), reject(signal!.reason));
    const timer = setTimeout(() => (signal?.removeEventListener("abort", stop), resolve()), ms);
    signal?.addEventListener("abort", stop, { once: true });
  });

function search(query: Query = {}): string {
  const found = new URLSearchParams();
  for (const [name, value] of Object.entries(query))
    for (const one of Array.isArray(value) ? value : [value]) if (one !== undefined) found.append(name, String(one));
  return found.size ? `?${found}` : "";
}
