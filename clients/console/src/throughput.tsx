/** Records over time, and what kinds they are of. */

import type { RunModel } from "./run-model.js";
import { inert } from "./inert.js";
import { clock, count, span } from "./time.js";

const BARS = 120;
const [WIDTH, HEIGHT] = [720, 160];

export function Throughput({ model }: { model: RunModel }) {
  const { seconds, kinds, lastSeq } = model.shown;
  if (seconds.size === 0) return <p className="empty">No records yet.</p>;
  const bars = grouped(seconds);
  const most = Math.max(...bars.values.map((value) => value / bars.width), 1);
  const total = [...kinds.values()].reduce((sum, value) => sum + value, 0);
  return (
    <div className="throughput">
      <figure>
        <svg viewBox={`0 0 ${WIDTH} ${HEIGHT}`} role="img" aria-label={`Records per second, at most ${Math.round(most)}`} preserveAspectRatio="none">
          {bars.values.map((value, at) => {
            const height = (HEIGHT * value) / bars.width / most;
            return <rect key={at} x={(at * WIDTH) / bars.values.length} y={HEIGHT - height} width={Math.max(WIDTH / bars.values.length - 1, 1)} height={height}><title>{`${clock(new Date((bars.from + at * bars.width) * 1000).toISOString())}: ${count(Math.round(value / bars.width))}/s`}</title></rect>;
          })}
        </svg>
        <figcaption>
          Records per second, at most {count(Math.round(most))}; {span(bars.values.length * bars.width * 1000)} from {clock(new Date(bars.from * 1000).toISOString())}, up to record {count(lastSeq)}
        </figcaption>
      </figure>
      <table>
        <thead><tr><th>Kind</th><th className="number">Records</th><th className="number">Share</th></tr></thead>
        <tbody>
          {[...kinds].sort((one, other) => other[1] - one[1]).slice(0, 50).map(([kind, value]) => (
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
