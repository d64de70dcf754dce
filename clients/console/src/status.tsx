/** How a run, step or task stands, as a word in its colour. */

export const Status = ({ status }: { status: string }) => <span className={`status ${status}`}>{status.replace("_", " ")}</span>;
