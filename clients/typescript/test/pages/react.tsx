/** What tests/browser/test_react.py looks at: all hooks on one run, parts of which come and go. */

import { StrictMode, useEffect, useState } from "react";
import { createRoot } from "react-dom/client";
import { RunstreamProvider, useRun, useTask, useText } from "../../src/react/index.js";

declare global {
  interface Window {
    /** Times that the run was drawn, and frames of the browser since the page began. */
    commits: number;
    drawn: number;
  }
}
[window.commits, window.drawn] = [0, 0];
const frame = () => requestAnimationFrame(() => ((window.drawn += 1), frame()));
frame();

function Run() {
  const { status, state, lastSeq, gaps } = useRun("r");
  useEffect(() => void (window.commits += 1));
  return <p id="run">{`${status} ${state} ${lastSeq}, ${gaps.length} gaps`}</p>;
}
const Text = () => <p id="text">{useText("r", { correlationId: "a" })}</p>;
const Task = () => <p id="task">{useTask<{ n: number }>("r", "count")?.state.n}</p>;

function App() {
  const [isShown, setIsShown] = useState(true);
  return (
    <>
      <button type="button" onClick={() => setIsShown(!isShown)}>Show or hide</button>
      {isShown && <><Run /><Text /><Text /><Task /></>}
    </>
  );
}

const server = new URLSearchParams(location.search).get("server")!;
createRoot(document.getElementById("root")!).render(
  <StrictMode>
    <RunstreamProvider url={server} token={() => ""}>
      <App />
    </RunstreamProvider>
  </StrictMode>,
);
