/** Times and numbers for people. */

export const clock = (time: string): string => {
  const moment = new Date(time);
  return Number.isNaN(moment.getTime()) ? "?" : `${moment.toLocaleTimeString([], { hour12: false })}.${String(moment.getMilliseconds()).padStart(3, "0")}`;
};

export const day = (time: string): string => {
  const moment = new Date(time);
  const isToday = moment.toDateString() === new Date().toDateString();
  return isToday ? moment.toLocaleTimeString([], { hour12: false }) : moment.toLocaleString([], { hour12: false });
};

/** ms as a person says it. */
export function span(ms: number): string {
  if (!Number.isFinite(ms)) return "";
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(ms < 10_000 ? 1 : 0)} s`;
  if (ms < 3_600_000) return `${Math.floor(ms / 60_000)} min ${Math.round((ms % 60_000) / 1000)} s`;
  return `${Math.floor(ms / 3_600_000)} h ${Math.round((ms % 3_600_000) / 60_000)} min`;
}

export const count = (value: number): string => value.toLocaleString();
