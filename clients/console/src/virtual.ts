/** Which rows of a long list are in view. Lists longer than a browser can lay out are scaled down. */

import { useCallback, useLayoutEffect, useRef, useState } from "react";

/** Browsers stop laying out between 17 and 33 million pixels. */
const HEIGHT_MAX = 10_000_000;
/** Rows drawn beyond the edges, so that fast scrolling shows no holes. */
const MARGIN = 10;

export interface Virtual {
  ref: React.RefObject<HTMLDivElement | null>;
  onScroll: () => void;
  /** Rows `from` up to `to` (without it) are drawn, the first one at `top` px. */
  from: number;
  to: number;
  top: number;
  height: number;
  scrollTo: (row: number) => void;
  isAtEnd: () => boolean;
}

export function useVirtual(count: number, rowHeight: number): Virtual {
  const ref = useRef<HTMLDivElement>(null);
  const [scroll, setScroll] = useState(0);
  const [view, setView] = useState(400);
  const full = count * rowHeight;
  const height = Math.min(full, HEIGHT_MAX);
  // Of the way that can be scrolled, the same share of the full list and of the drawn one.
  const scale = height > view ? (full - view) / (height - view) : 1;
  const from = Math.max(Math.floor((scroll * scale) / rowHeight) - MARGIN, 0);
  const to = Math.min(Math.ceil((scroll * scale + view) / rowHeight) + MARGIN, count);
  const top = from * rowHeight - scroll * scale + scroll;

  useLayoutEffect(() => {
    const element = ref.current!;
    const watch = new ResizeObserver(() => setView(element.clientHeight));
    watch.observe(element);
    return () => watch.disconnect();
  }, []);

  const onScroll = useCallback(() => setScroll(ref.current!.scrollTop), []);
  const scrollTo = (row: number) => {
    const element = ref.current!;
    // (Measured now: what was last drawn may have had another height.)
    const { scrollTop, clientHeight } = element;
    const [first, last] = [Math.ceil((scrollTop * scale) / rowHeight), Math.floor((scrollTop * scale + clientHeight) / rowHeight) - 1];
    if (row < first) element.scrollTop = (row * rowHeight) / scale;
    else if (row > last) element.scrollTop = ((row + 1) * rowHeight - clientHeight) / scale;
  };
  const isAtEnd = () => {
    const element = ref.current!;
    return element.scrollTop + element.clientHeight >= element.scrollHeight - rowHeight;
  };
  return { ref, onScroll, from, to, top, height, scrollTo, isAtEnd };
}
