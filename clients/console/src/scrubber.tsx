/** The way through time: the run as it was after any record, and on from there. */

import { useState } from "react";
import type { RunModel } from "./run-model.js";
import { gapText } from "./gap-text.js";
import { clock, count } from "./time.js";

const SPEEDS = [1, 10, 100];

/** What cannot be had any more, drawn where it was. */
function Gaps({ model, newest }: { model: RunModel; newest: number }) {
  const range = Math.max(newest - model.foldedFrom, 1);
  const at = (seq: number) => Math.min(Math.max((100 * (seq - model.foldedFrom)) / range, 0), 100);
  const gaps = model.folds.gaps.filter(({ data }) => data.reason === "trimmed" && data.to_seq !== null);
  return gaps.map(({ cursor, data }) => (
    <span key={cursor} className="hole" style={{ left: `${at(data.from_seq)}%`, width: `max(3px, ${at(data.to_seq! + 1) - at(data.from_seq)}%)` }} title={gapText(data)} />
  ));
}

export function Scrubber({ model }: { model: RunModel }) {
  const [speed, setSpeed] = useState(1);
  const { replay } = model;
  const newest = model.newestSeq;
  const at = replay?.target ?? model.folds.lastSeq;
  if (newest === 0) return null;
  return (
    <div className="scrubber" role="group" aria-label="Replay">
      {replay?.isPlaying ? (
        <button type="button" onClick={() => model.pause()}>Pause</button>
      ) : (
        <button type="button" disabled={!replay || replay.isSeeking} onClick={() => void model.play(speed)}>Play</button>
      )}
      <span className="way">
      <Gaps model={model} newest={newest} />
      <input
        type="range"
        aria-label="Show the run after record"
        aria-valuetext={`record ${at} of ${newest}`}
        min={model.foldedFrom}
        max={newest}
        value={at}
        onChange={(event) => void model.seek(Number(event.target.value))}
      />
      </span>
      <output>{replay ? `${count(at)}${replay.isSeeking ? " …" : ""} · ${clock(replay.folds.lastTime)}` : model.state === "ended" ? "at the end" : "live"}</output>
      <label className="speed">
        Speed{" "}
        <select value={speed} onChange={(event) => { setSpeed(Number(event.target.value)); if (replay?.isPlaying) void model.play(Number(event.target.value)); }}>
          {SPEEDS.map((one) => <option key={one} value={one}>×{one}</option>)}
        </select>
      </label>
      <button type="button" disabled={!replay} onClick={() => model.goLive()}>Live</button>
    </div>
  );
}
