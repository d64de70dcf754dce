"""A reader goes away in the middle and comes back: it continues exactly where it stopped."""

from runstream import connect, publish, start_run

with start_run("pages") as run:
    for page in range(1, 11):
        publish({"page": page}, kind="page")

with connect() as streams:
    seen: list[int] = []
    cursor = ""
    for record in streams.subscribe(run.run_id):
        if record.kind == "page":
            seen.append(record.data["page"])
        cursor = record.cursor  # what a browser, or a file, would keep
        if len(seen) == 4:
            break  # the tab is closed here

    rest = streams.subscribe(run.run_id, after=cursor, kinds="page")
    seen += [record.data["page"] for record in rest if record.kind == "page"]

print("pages in order, none missing, none twice:", seen)
assert seen == list(range(1, 11))
