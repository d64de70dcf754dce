/**
 * JSON Patch (RFC 6902) as a task's deltas use it, with one operation more: `append` puts text at the end
 * of a string, or items at the end of an array.
 *
 * Pure, and all or nothing: the given document never changes, the result shares all unchanged parts with it.
 */

export type Json = null | boolean | number | string | Json[] | { [name: string]: Json };
type Container = Json[] | { [name: string]: Json };

/** A patch that cannot be applied; nothing of it was. */
export class InvalidPatch extends Error {
  override name = "InvalidPatch";
}

/** The document after the patch. Throws `InvalidPatch`. */
export function applyPatch(document: Json, patch: unknown): Json {
  if (!Array.isArray(patch)) throw new InvalidPatch("a patch is an array of operations");
  // The document's own place, so that replacing the whole of it is nothing special.
  const top: { [name: string]: Json } = { "": document };
  const owned = new Set<Json>([top]);
  for (const operation of patch) applyOne(top, owned, operation);
  return top[""]!;
}

function applyOne(top: Container, owned: Set<Json>, operation: unknown): void {
  if (!isObject(operation)) throw new InvalidPatch("an operation is an object");
  const place = placeOf(operation["path"]);
  switch (operation["op"]) {
    case "add":
      return add(own(top, owned, place), last(place), valueOf(operation));
    case "replace":
      return put(own(top, owned, place), last(place), valueOf(operation));
    case "remove":
      remove(own(top, owned, place), place);
      return;
    case "append": {
      const grown = find(top, place);
      const value = valueOf(operation);
      const parent = own(top, owned, place);
      if (typeof grown === "string" && typeof value === "string") put(parent, last(place), grown + value);
      else if (Array.isArray(grown) && Array.isArray(value)) put(parent, last(place), [...grown, ...value]);
      else throw new InvalidPatch("append takes text or items");
      return;
    }
    case "move": {
      const source = placeOf(operation["from"]);
      if (same(source, place)) return void find(top, place);
      if (same(source, place.slice(0, source.length))) throw new InvalidPatch("it cannot move into itself");
      const value = remove(own(top, owned, source), source);
      return add(own(top, owned, place), last(place), value);
    }
    case "copy": {
      const value = find(top, placeOf(operation["from"]));
      // It stands in two places now, so whoever changes one of them must copy it (and its parts) again.
      disown(owned, value);
      return add(own(top, owned, place), last(place), value);
    }
    case "test":
      if (!equal(find(top, place), valueOf(operation))) throw new InvalidPatch("not the expected value");
      return;
    default:
      throw new InvalidPatch(`there is no operation ${operation["op"]}`);
  }
}

/** The container that holds the place, copied (with its parents) before its first change. */
function own(top: Container, owned: Set<Json>, place: string[]): Container {
  let node = top;
  for (const token of place.slice(0, -1)) {
    let child = get(node, token);
    if (typeof child !== "object" || child === null) throw new InvalidPatch("the pointer leads into a value");
    if (!owned.has(child)) {
      child = Array.isArray(child) ? [...child] : { ...child };
      owned.add(child);
      put(node, token, child);
    }
    node = child;
  }
  return node;
}

function disown(owned: Set<Json>, value: Json): void {
  if (owned.delete(value)) for (const part of Object.values(value as Container)) disown(owned, part);
}

function find(top: Container, place: string[]): Json {
  let node: Json = top;
  for (const token of place) node = get(node, token);
  return node;
}

function get(node: Json, token: string): Json {
  if (Array.isArray(node)) return node[indexOf(token, node.length)]!;
  if (!isObject(node)) throw new InvalidPatch("the pointer leads into a value");
  if (!Object.hasOwn(node, token)) throw new InvalidPatch(`there is no member ${token}`);
  return node[token] as Json;
}

function put(node: Container, token: string, value: Json): void {
  if (Array.isArray(node)) node[indexOf(token, node.length)] = value;
  else {
    get(node, token);
    define(node, token, value);
  }
}

function add(node: Container, token: string, value: Json): void {
  if (Array.isArray(node)) node.splice(token === "-" ? node.length : indexOf(token, node.length + 1), 0, value);
  else define(node, token, value);
}

function remove(node: Container, place: string[]): Json {
  if (place.length === 1) throw new InvalidPatch("the document cannot be removed");
  const token = last(place);
  const value = get(node, token);
  if (Array.isArray(node)) node.splice(Number(token), 1);
  else delete node[token];
  return value;
}

/** An ordinary member, also when it is called `__proto__`. */
function define(node: object, token: string, value: Json): void {
  Object.defineProperty(node, token, { value, writable: true, enumerable: true, configurable: true });
}

/** The pointer's tokens (RFC 6901), behind one for the document itself. */
function placeOf(pointer: unknown): string[] {
  if (typeof pointer !== "string" || !/^(\/([^~]|~[01])*)?$/s.test(pointer)) {
    throw new InvalidPatch("not a JSON pointer");
  }
  return pointer.split("/").map((token) => token.replaceAll("~1", "/").replaceAll("~0", "~"));
}

function indexOf(token: string, end: number): number {
  if (!/^(0|[1-9][0-9]*)$/.test(token) || Number(token) >= end) {
    throw new InvalidPatch(`${token} is no index below ${end}`);
  }
  return Number(token);
}

function valueOf(operation: { [name: string]: unknown }): Json {
  if (!Object.hasOwn(operation, "value")) throw new InvalidPatch("no value");
  return operation["value"] as Json;
}

const last = (place: string[]): string => place.at(-1)!;

const same = (one: string[], other: string[]): boolean =>
  one.length === other.length && one.every((token, at) => token === other[at]);

const isObject = (value: unknown): value is { [name: string]: unknown } =>
  typeof value === "object" && value !== null && !Array.isArray(value);

function equal(one: Json, other: Json): boolean {
  if (one === other) return true;
  if (typeof one !== "object" || typeof other !== "object" || !one || !other) return false;
  // (An array's indices are names, too.)
  const parts = Object.entries(one);
  return (
    Array.isArray(one) === Array.isArray(other) &&
    parts.length === Object.keys(other).length &&
    parts.every(([name, part]) => Object.hasOwn(other, name) && equal(part, (other as { [name: string]: Json })[name]!))
  );
}
