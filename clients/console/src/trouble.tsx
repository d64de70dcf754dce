/** What went wrong, and what a person can do about it. */

import { inert } from "./inert.js";
import { type ReactNode, useState } from "react";
import { hasToken, setToken } from "./session.js";

/** An error; a server that wants a token is given one. */
export function Trouble({ error, onRetry }: { error: { code: string; message: string; status: number }; onRetry?: () => void }): ReactNode {
  const [value, setValue] = useState("");
  const [isAsking, setIsAsking] = useState(false);
  if (error.status === 401 || isAsking) {
    return (
      <form className="trouble" role="alert" onSubmit={(event) => { event.preventDefault(); setToken(value); location.reload(); }}>
        <p>{hasToken() ? "The server does not take this token, or not for this." : "This server wants a token."} <code>runstream token create</code> on the server makes one.</p>
        <label>Token <input type="password" autoComplete="off" value={value} onChange={(event) => setValue(event.target.value)} /></label>
        <button type="submit">Use it in this tab</button>
      </form>
    );
  }
  return (
    <div className="trouble" role="alert">
      <p>{inert(error.message)}</p>
      {error.status === 403 && hasToken() && <button type="button" onClick={() => setIsAsking(true)}>Use another token</button>}
      {onRetry && <button type="button" onClick={onRetry}>Try again</button>}
    </div>
  );
}
