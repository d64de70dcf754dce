/** The text of each generation, as it grows; what failed attempts wrote is struck out. */

import { useState } from "react";
import type { RunModel } from "./run-model.js";
import { inert } from "./inert.js";
import { count } from "./time.js";

/** What is drawn of one text, from its end: a page of paper is some 3 000. */
const SHOWN_MAX = 20_000;
const TEXTS_MAX = 100;

export function TextView({ model }: { model: RunModel }) {
  const { text } = model.shown;
  const names = text.names();
  if (names.length === 0) return <p className="empty">No text yet. Records of kind <code>token</code> with <code>{'{"text": …}'}</code> show here, one text per correlation_id.</p>;
  return (
    <div className="texts">
      {names.slice(-TEXTS_MAX).map((name) => <Text key={name} name={name} pieces={text.pieces(name)} />)}
      {names.length > TEXTS_MAX && <p className="note">The newest {TEXTS_MAX} of {count(names.length)} texts.</p>}
    </div>
  );
}

function Text({ name, pieces }: { name: string; pieces: readonly { text: string; discarded: boolean; attempt?: number | undefined }[] }) {
  const [isWhole, setIsWhole] = useState(false);
  const length = pieces.reduce((sum, piece) => sum + piece.text.length, 0);
  let left = isWhole ? Infinity : SHOWN_MAX;
  const shown = [];
  for (let at = pieces.length - 1; at >= 0 && left > 0; at--) {
    const piece = pieces[at]!;
    const part = inert(piece.text.slice(-left));
    left -= piece.text.length;
    shown.unshift(piece.discarded ? <del key={at} title={`attempt ${piece.attempt} failed: its text is discarded`}>{part}</del> : <span key={at}>{part}</span>);
  }
  return (
    <article className="text">
      <h2>{name ? <bdi>{inert(name)}</bdi> : <i>without correlation_id</i>} <small>{count(length)} characters</small></h2>
      {length > SHOWN_MAX && !isWhole && <button type="button" onClick={() => setIsWhole(true)}>Show the beginning, too</button>}
      <p className="prose" dir="auto">{shown}</p>
    </article>
  );
}
