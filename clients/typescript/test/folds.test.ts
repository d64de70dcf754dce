import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { applyPatch } from "../src/folds/patch.js";
import { StepFold } from "../src/folds/steps.js";
import { TaskFold } from "../src/folds/tasks.js";
import { TextFold } from "../src/folds/text.js";

const vectors = (name: string) =>
  JSON.parse(readFileSync(new URL(`../../../tests/vectors/${name}.json`, import.meta.url), "utf8"));

describe("a patch does what the shared vectors say", () => {
  for (const { comment, doc, patch, expected, error } of vectors("patch").apply) {
    test(comment, () => {
      const before = JSON.stringify(doc);
      if (error) expect(() => applyPatch(doc, patch)).toThrow();
      else expect(applyPatch(doc, patch)).toEqual(expected);
      expect(JSON.stringify(doc)).toBe(before);
    });
  }
  for (const { comment, old, new: now, patch } of vectors("patch").diff) {
    test(`what the differ writes: ${comment}`, () => expect(applyPatch(old, patch)).toEqual(now));
  }
});

describe("a fold of tasks gives what the shared vectors say", () => {
  for (const { comment, records } of vectors("tasks").folds) {
    test(comment, () => {
      const fold = new TaskFold();
      let seq = 0;
      for (const { expected, ...record } of records) {
        const tasks = fold.feed({ seq: ++seq, time: "", run_id: "run-1", cursor: "", ...record });
        const whole = expected.map((task: object) => ({ parent_task_id: null, error: null, ...task }));
        expect(tasks.map(({ record, ...task }) => task)).toEqual(whole);
      }
    });
  }
});

describe("a fold of text gives what the shared vectors say", () => {
  for (const { comment, records, expected } of vectors("text").folds) {
    test(comment, () => {
      const fold = new TextFold();
      let seq = 0;
      for (const record of records) fold.feed({ seq: ++seq, time: "", run_id: "run-1", cursor: "", ...record });
      const texts = fold.names().map((name) => [
        name,
        {
          text: fold.text(name),
          discarded: fold.pieces(name).filter((piece) => piece.discarded).map((piece) => piece.text),
        },
      ]);
      expect(texts).toEqual(Object.entries(expected));
    });
  }
});

describe("a fold of steps gives what the shared vectors say", () => {
  for (const { comment, records, expected } of vectors("steps").folds) {
    test(comment, () => {
      const fold = new StepFold();
      let seq = 0;
      for (const record of records) fold.feed({ seq: ++seq, time: "t", run_id: "run-1", cursor: "", ...record });
      const runs = JSON.parse(JSON.stringify(fold.runs), (name, value) =>
        name === "started" || name === "ended" ? undefined : value,
      );
      expect(runs).toEqual(expected);
    });
  }
});
