/** The frame of the console: the way around, and the theme. */

import { Component, type ReactNode, useEffect, useRef, useState } from "react";
import { RunsView } from "./runs-view.js";
import { RunView } from "./run-view.js";
import { StartView } from "./start-view.js";
import { to, usePlace } from "./place.js";

type Theme = "system" | "light" | "dark";
const THEMES: Theme[] = ["system", "light", "dark"];

export function App() {
  const { parts } = usePlace();
  const [section = "runs", id] = parts;
  const main = useFocusOnMove(`${section}/${id ?? ""}`);
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
      <main id="main" tabIndex={-1} ref={main}>
        <Guard key={`${section}/${id ?? ""}`}>
        {section === "runs" && id ? <RunView key={id} runId={id} /> : section === "start" ? <StartView workflow={id} /> : <RunsView />}
        </Guard>
      </main>
    </>
  );
}

/** Who came by a link goes on reading there: keyboards and screen readers begin at the new content. */
function useFocusOnMove(place: string): React.RefObject<HTMLElement | null> {
  const main = useRef<HTMLElement>(null);
  const before = useRef(place);
  useEffect(() => {
    if (before.current !== place) main.current?.focus();
    before.current = place;
  }, [place]);
  return main;
}

/** A view that fails says so, and leaves the rest of the page usable. */
class Guard extends Component<{ children: ReactNode }, { error: unknown }> {
  override state = { error: undefined };
  static getDerivedStateFromError = (error: unknown) => ({ error });
  override render(): ReactNode {
    if (this.state.error === undefined) return this.props.children;
    return (
      <div className="trouble" role="alert">
        <p>The console cannot show this, which is a fault of the console: {String(this.state.error)}</p>
        <button type="button" onClick={() => location.reload()}>Reload</button>
      </div>
    );
  }
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
