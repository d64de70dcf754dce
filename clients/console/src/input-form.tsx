/** What the run asks a person, and the answer. */

import { useState } from "react";
import type { Question } from "./folds.js";
import { type RunModel, asError } from "./run-model.js";
import { streams } from "./session.js";
import { inert, json } from "./inert.js";

export function InputForms({ model }: { model: RunModel }) {
  const isOver = Boolean(model.info?.ended) || model.replay;
  const open = isOver ? [] : model.folds.questions.filter((question) => !question.answered);
  return open.slice(-5).map((question) => <InputForm key={question.record.seq} question={question} />);
}

function InputForm({ question }: { question: Question }) {
  const { record } = question;
  const { prefix = "", ...rest } = record.data;
  const [answer, setAnswer] = useState("");
  const [state, setState] = useState<"open" | "sending" | "sent" | string>("open");
  const send = async () => {
    setState("sending");
    try {
      // What else the question says is said back, so that the step knows which one this answers.
      await streams.handler(record.run_id).sendEvent("HumanResponseEvent", { ...rest, response: answer });
      setState("sent");
    } catch (error) {
      setState(asError(error).message);
    }
  };
  return (
    <form className="question" onSubmit={(event) => { event.preventDefault(); void send(); }}>
      <label>
        <span><b>{record.step ? inert(record.step) : "The run"} asks:</b> {inert(prefix)}</span>
        <input value={answer} disabled={state === "sending" || state === "sent"} onChange={(event) => setAnswer(event.target.value)} />
      </label>
      <button type="submit" disabled={state === "sending" || state === "sent"}>Answer</button>
      {Object.keys(rest).length > 0 && <small>{json(rest)}</small>}
      <span role="status">{state === "open" ? "" : state === "sending" ? "…" : state === "sent" ? "sent" : state}</span>
    </form>
  );
}
