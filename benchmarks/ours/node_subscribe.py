"""The TypeScript client in Node: `for await` over a million stored records of a server, parsed, in order."""

import asyncio
import json
import shutil
import subprocess
import sys

from benchmarks.measure import arguments, emit
from benchmarks.rows import ROOT
from benchmarks.served import serving
from runstream.logs import open_log
from runstream.record import Draft, make_draft

CLIENT = ROOT / "clients" / "typescript"
PROGRAM = """
import { connect } from "./src/index.ts";
const [url, wanted] = process.argv.slice(2);
let [count, last, text] = [0, 0, 0];
const begun = performance.now();
for await (const record of connect({ url }).subscribe("r", { follow: false })) {
  if (record.seq !== last + 1) throw new Error(`${last} was followed by ${record.seq}`);
  last = record.seq;
  text += record.data.text.length;
  count += 1;
}
const seconds = (performance.now() - begun) / 1000;
console.log(JSON.stringify({ count, seconds, wanted, rss: process.resourceUsage().maxRSS / 1024 }));
"""


async def fill(url: str, count: int) -> None:
    """Store the records, past the server: how they came is not what is measured."""
    log = open_log(url)
    await log.open("r", producer=None, workflow="w")
    draft: Draft = make_draft("r", "token", {"text": "x" * 60}, correlation_id="gen-1")
    for _ in range(count // 1000):
        await log.append("r", [draft] * 1000)
    await log.aclose()


def main() -> None:
    args = arguments(__doc__ or "").parse_args()
    node = shutil.which("node")
    if node is None:
        sys.exit("there is no node here")
    if not (CLIENT / "node_modules").is_dir():
        sys.exit("run `npm ci` in clients/typescript first")
    count = 50_000 if args.quick else 1_000_000
    url = f"sqlite:{args.scratch / 'events.db'}"
    asyncio.run(fill(url, count))
    bundle = args.scratch / "subscribe.mjs"
    build = ["npx", "esbuild", "--bundle", "--format=esm", "--platform=node"]
    subprocess.run(
        [*build, f"--outfile={bundle}", "--log-level=error"],
        input=PROGRAM.encode(),
        cwd=CLIENT,
        check=True,
    )
    with serving(url) as served:
        said = subprocess.run(
            [node, str(bundle), served.url, str(count)], capture_output=True, check=True
        )
    result = json.loads(said.stdout)
    emit(
        "node_subscribe",
        received=result["count"],
        sent=count,
        records_per_s=round(result["count"] / result["seconds"]),
        max_rss_mib=round(result["rss"], 1),
    )


if __name__ == "__main__":
    main()
