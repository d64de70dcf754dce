/** The server that this page came from, the token that a person gave, and the server's clock. */

import { connect } from "../../typescript/src/index.js";

const KEY = "runstream:token";
/** `Date` counts in seconds, and an answer takes its time: less than this is no difference. */
const SKEW_MS_MIN = 2000;

/** Where the console is served, there is the API, under whatever prefix. */
export const base = new URL(".", location.href.split("#")[0]).href;

let token = sessionStorage.getItem(KEY) ?? "";
let skewMs = 0;

export const hasToken = (): boolean => token !== "";

/** For this tab only, until it is closed. */
export function setToken(value: string): void {
  token = value.trim();
  sessionStorage.setItem(KEY, token);
}

/** Now, as the server has it: how long a run has gone on must not depend on this machine's clock. */
export const serverNow = (): number => Date.now() + skewMs;

async function fetchWithClock(...request: Parameters<typeof fetch>): Promise<Response> {
  const response = await fetch(...request);
  const difference = Date.parse(response.headers.get("date") ?? "") - Date.now();
  if (!Number.isNaN(difference)) skewMs = Math.abs(difference) < SKEW_MS_MIN ? 0 : difference;
  return response;
}

export const streams = connect({ url: base, token: () => token, fetch: fetchWithClock });
