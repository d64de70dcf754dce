/** Records over time, and what kinds they are of. */

import type { RunModel } from "./run-model.js";
import { inert } from "./inert.js";
import { clock, count, span } from "./time.js";

const BARS = 120;
/** A short run has few bars; they are not drawn as walls. */
const BARS_MIN = 12;
const [WIDTH, HEIGHT] = [720, 160];
const KINDS_MAX = 50;

export function Throughput({ model }: { model: RunModel }) {
  const { seconds, kinds, lastSeq } = model.shown;
  if (seconds.size === 0) return <p className="empty">No records yet.</p>;
  const bars = grouped(seconds);
  const most = Math.max(...bars.values.map((value) => value / bars.width), 1);
  const total = [...kinds.values()].reduce((sum, value) => sum + value, 0);
  const slot = WIDTH / Math.max(bars.values.length, BARS_MIN);
  const at = (share: number) => clock(new Date((bars.from + share * Math.max(bars.values.length, BARS_MIN) * bars.width) * 1000).toISOString()).slice(0, 8);
  return (
    <div className="throughput">
      <figure>
        <div className="chart">
          <div className="scale" aria-hidden="true"><span>{count(Math.round(most))}/s</span><span>{most >= 4 && count(Math.round(most / 2))}</span><span>0</span></div>
          <svg viewBox={`0 0 ${WIDTH} ${HEIGHT}`} role="img" aria-label={`Records per second, at most ${Math.round(most)}`} preserveAspectRatio="none">
            <line x1={0} x2={WIDTH} y1={HEIGHT / 2} y2={HEIGHT / 2} />
            {bars.values.map((value, number) => {
              const height = (HEIGHT * value) / bars.width / most;
              const from = clock(new Date((bars.from + number * bars.width) * 1000).toISOString());
              return <rect key={number} x={number * slot} y={HEIGHT - height} width={Math.max(slot - 1, 1)} height={height}><title>{`${from}: ${count(Math.round(value / bars.width))}/s`}</title></rect>;
            })}
          </svg>
          <div className="scale times" aria-hidden="true"><span>{at(0)}</span><span>{at(0.5)}</span><span>{at(1)}</span></div>
        </div>
        <figcaption>
          Records per second by the producers' clocks, at most {count(Math.round(most))}; {span(bars.values.length * bars.width * 1000)} from {clock(new Date(bars.from * 1000).toISOString())}, up to record {count(lastSeq)}
        </figcaption>
      </figure>
      <table>
        <thead><tr><th scope="col">Kind</th><th scope="col" className="number">Records</th><th scope="col" className="number">Share</th></tr></thead>
        <tbody>
          {[...kinds].sort((one, other) => other[1] - one[1]).slice(0, KINDS_MAX).map(([kind, value]) => (
            <tr key={kind}><td><bdi>{inert(kind)}</bdi></td><td className="number">{count(value)}</td><td className="number">{((100 * value) / total).toFixed(1)} %</td></tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

/** The seconds in at most `BARS` groups of equal width. */
function grouped(seconds: ReadonlyMap<number, number>): { from: number; width: number; values: number[] } {
  let [from, to] = [Infinity, -Infinity];
  for (const second of seconds.keys()) [from, to] = [Math.min(from, second), Math.max(to, second)];
  const width = Math.ceil((to - from + 1) / BARS);
  const values = new Array<number>(Math.ceil((to - from + 1) / width)).fill(0);
  for (const [second, value] of seconds) values[Math.floor((second - from) / width)]! += value;
  return { from, width, values };
}
