"""A workflow with two steps at once, tokens, progress, and a question to a person.

Run it with `runstream run examples/haiku.py`, or by itself: then a program gives the answer.
"""

import asyncio

from runstream import (
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StopEvent,
    Workflow,
    publish,
    step,
)

# A scripted model: it stands for two calls of a real one.
POEMS = {
    "basho": "An old silent pond.\nA frog jumps into the pond.\nSplash! Silence again.\n",
    "issa": "Everything I touch\nwith tenderness, alas, pricks\nlike a bramble bush.\n",
}


class Begin(StartEvent):
    pause: float = 0.1


class Write(Event):
    poet: str
    pause: float


class Poem(Event):
    poet: str
    text: str


class Haiku(Workflow):
    """Two poets write at the same time; a person chooses."""

    @step
    async def commission(self, ev: Begin) -> list[Write]:
        return [Write(poet=poet, pause=ev.pause) for poet in POEMS]

    @step
    async def write(self, ev: Write) -> Poem:
        for index, token in enumerate(POEMS[ev.poet].split(" ")):
            publish({"text": token + " "}, kind="token", correlation_id=ev.poet, index=index)
            await asyncio.sleep(ev.pause)
        return Poem(poet=ev.poet, text=POEMS[ev.poet].strip())

    @step
    async def choose(self, ctx: Context, ev: Poem) -> StopEvent | None:
        poems = ctx.collect_events(ev, [Poem] * len(POEMS))
        if poems is None:
            return None
        question = f"Whose is better, {' or '.join(POEMS)}?"
        answer = await ctx.wait_for_event(
            HumanResponseEvent, waiter_event=InputRequiredEvent(prefix=question)
        )
        for poem in poems:
            if poem.poet == answer.response.strip().casefold():
                return StopEvent(result={"winner": poem.poet, "poem": poem.text.splitlines()})
        raise ValueError(f"nobody is called {answer.response!r}")


async def main() -> None:
    handler = Haiku().run(pause=0.01)
    async for event in handler.stream_events():
        if isinstance(event, InputRequiredEvent):
            print(event.prefix)
            await handler.send_event(HumanResponseEvent(response="basho"))
    result = await handler
    print(result)
    assert result["winner"] == "basho"


if __name__ == "__main__":
    asyncio.run(main())
