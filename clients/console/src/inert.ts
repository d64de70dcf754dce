/** Text from strangers, shown so that it can do nothing: React escapes markup, this does the rest. */

/** Controls, marks that turn the direction of text, and what has no width: shown as their escapes. */
const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;

/** What should be text. (A payload that says otherwise must not break a page: not all objects become strings.) */
export const inert = (text: unknown): string =>
  typeof text === "string" ? text.replace(UNSEEN, (found) => `\\u${found.charCodeAt(0).toString(16).padStart(4, "0")}`) : json(text);

/** A value as JSON, in one line or many. */
export const json = (value: unknown, indent = 0): string => {
  const text = JSON.stringify(value, null, indent);
  return text === undefined ? "" : inert(text);
};

export const clip = (text: string, most: number): string => (text.length > most ? `${text.slice(0, most)}…` : text);

/** An error as a producer told it. */
export const errorText = (error: unknown): string => {
  if (typeof error !== "object" || error === null) return inert(error);
  const { type, message } = error as { type?: unknown; message?: unknown };
  return type === undefined && message === undefined ? json(error) : [type, message].filter((part) => part !== undefined && part !== "").map(inert).join(": ");
};
