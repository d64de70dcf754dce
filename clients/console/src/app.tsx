/** The frame of the console: the way around, and the theme. */

import { useEffect, useState } from "react";
import { RunsView } from "./runs-view.js";
import { RunView } from "./run-view.js";
import { StartView } from "./start-view.js";
import { to, usePlace } from "./place.js";

type Theme = "system" | "light" | "dark";
const THEMES: Theme[] = ["system", "light", "dark"];

export function App() {
  const { parts } = usePlace();
  const [section = "runs", id] = parts;
  return (
    <>
      <a className="skip" href="#main">Skip to the content</a>
      <header className="bar">
        <a className="brand" href={to()}>runstream</a>
        <nav aria-label="Console">
          <a href={to()} aria-current={section === "runs" && !id ? "page" : undefined}>Runs</a>
          <a href={to("start")} aria-current={section === "start" ? "page" : undefined}>Start</a>
        </nav>
        <ThemeButton />
      </header>
      <main id="main" tabIndex={-1}>
        {section === "runs" && id ? <RunView key={id} runId={id} /> : section === "start" ? <StartView workflow={id} /> : <RunsView />}
      </main>
    </>
  );
}

function ThemeButton() {
  const [theme, setTheme] = useState<Theme>(() => (localStorage.getItem("runstream:theme") as Theme | null) ?? "system");
  useEffect(() => {
    localStorage.setItem("runstream:theme", theme);
    document.documentElement.dataset["theme"] = theme;
  }, [theme]);
  const next = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length]!;
  return (
    <button type="button" className="quiet" onClick={() => setTheme(next)} aria-label={`Theme: ${theme}. Change to ${next}`}>
      {theme === "system" ? "◐" : theme === "light" ? "☀" : "☾"}
    </button>
  );
}
