# The Python of ZenML's page "Streaming Events", working.
#
# Edits beside the import lines (`from zenml import step` and `from zenml.streaming import publish, flush`):
# * `generate` gives the variables of the page's one-line examples (`chunk`, `i`) a place, and calls `flush`
#   after them, whose answer it publishes: on the page they stand alone.
# * `streaming_pipeline` and `research` call the steps: the page describes dynamic pipelines in words.
# * Everything from `main` on: the page ends where a run begins.
"""Publish from inside a step, from a dynamic pipeline's body, and see it from outside."""

from scripted_llm import STORY

from runstream import connect, flush, pipeline, publish, step


@step
def my_streaming_step() -> str:
    publish({"phase": "warmup"})
    for i in range(10):
        publish({"i": i, "msg": f"working on item {i}"})
    publish({"phase": "done"})
    return "ok"


@step
def generate() -> bool:
    for i, chunk in enumerate(STORY.split()):
        publish({"text": chunk}, kind="token", correlation_id="gen-42", index=i)
    published = flush(timeout=2.0)  # True if the queue drained
    publish({"published": published}, kind="status")
    return published


@pipeline
def streaming_pipeline() -> str:
    return my_streaming_step()


@pipeline(dynamic=True)
def research() -> list[bool]:
    publish({"phase": "planning"})  # belongs to the run, and to no step
    futures = [generate.submit() for _ in range(2)]
    return [future.result() for future in futures]


def main() -> None:
    print("the pipeline's result:", streaming_pipeline())
    print("all tokens stored:", research())
    with connect() as streams:
        for workflow in ("streaming_pipeline", "research"):
            run = streams.list_runs(workflow=workflow, limit=1)[0]
            for record in streams.subscribe(run.run_id, kinds=["event", "token"]):
                if record.kind == "event":
                    print(f"{run.workflow} {record.step}: {record.data}")
            tokens = list(
                streams.subscribe(
                    run.run_id, kinds=["token"], correlation_ids=["gen-42"], follow=False
                )
            )
            print(
                f"{run.workflow}: {len(tokens)} records for gen-42, the end of the run among them"
            )


if __name__ == "__main__":
    main()
