/** What went wrong, and what a person can do about it. */

import { inert } from "./inert.js";
import { type ReactNode, useState } from "react";
import { hasToken, setToken } from "./session.js";

// The server's own words are for Python: they name arguments that a page has not.
const NO_RUN = "There is no such run in this server's log. It may have been removed, not have begun yet, or be in another log.";

/** An error; a server that wants a token is given one. */
export function Trouble({ error, onRetry }: { error: { code: string; message: string; status: number }; onRetry?: () => void }): ReactNode {
  const [value, setValue] = useState("");
  const [isAsking, setIsAsking] = useState(false);
  if (error.status === 401 || isAsking) {
    return (
      <form className="trouble" role="alert" onSubmit={(event) => { event.preventDefault(); setToken(value); location.reload(); }}>
        <p>{hasToken() ? "The server does not take this token, or it does not allow this." : "This server wants a token."} Create one on the server: <code>runstream token create-key --keys FILE --scope runs:read</code>.</p>
        <label>Token <input type="password" autoComplete="off" value={value} onChange={(event) => setValue(event.target.value)} /></label>
        <button type="submit">Use it in this tab</button>
      </form>
    );
  }
  return (
    <div className="trouble" role="alert">
      <p>{error.code === "run_not_found" ? NO_RUN : inert(error.message)}</p>
      {error.status === 403 && hasToken() && <button type="button" onClick={() => setIsAsking(true)}>Use another token</button>}
      {onRetry && <button type="button" onClick={onRetry}>Try again</button>}
    </div>
  );
}
