/** Where the page is: the address behind its `#`, so that a link leads to the same view. */

import { useSyncExternalStore } from "react";

export interface Place {
  parts: string[];
  query: URLSearchParams;
}

const subscribe = (listener: () => void) => {
  addEventListener("hashchange", listener);
  return () => removeEventListener("hashchange", listener);
};

export function usePlace(): Place {
  const hash = useSyncExternalStore(subscribe, () => location.hash);
  const [path = "", query = ""] = hash.replace(/^#\/?/, "").split("?");
  return { parts: path.split("/").filter(Boolean).map(decodeURIComponent), query: new URLSearchParams(query) };
}

export const to = (...parts: string[]): string => `#/${parts.map(encodeURIComponent).join("/")}`;

export function go(href: string): void {
  location.hash = href;
}
