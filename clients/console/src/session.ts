/** The server that this page came from, and the token that a person gave. */

import { connect } from "../../typescript/src/index.js";

const KEY = "runstream:token";

/** Where the console is served, there is the API, under whatever prefix. */
export const base = new URL(".", location.href.split("#")[0]).href;

let token = sessionStorage.getItem(KEY) ?? "";

/** For this tab only, until it is closed. */
export function setToken(value: string): void {
  token = value.trim();
  sessionStorage.setItem(KEY, token);
}

export const streams = connect({ url: base, token: () => token });
