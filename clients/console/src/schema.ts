/** A JSON Schema as the form reads it: what pydantic writes, and the plain rest as JSON. */

export interface Schema {
  $ref?: string;
  $defs?: { [name: string]: Schema };
  type?: string | string[];
  format?: string;
  title?: string;
  description?: string;
  default?: unknown;
  const?: unknown;
  enum?: unknown[];
  properties?: { [name: string]: Schema };
  required?: string[];
  items?: Schema;
  prefixItems?: Schema[];
  minItems?: number;
  maxItems?: number;
  minLength?: number;
  maxLength?: number;
  pattern?: string;
  minimum?: number;
  maximum?: number;
  exclusiveMinimum?: number;
  exclusiveMaximum?: number;
  multipleOf?: number;
  anyOf?: Schema[];
  oneOf?: Schema[];
  allOf?: Schema[];
}

/** What kind of field a schema gets; `json` for all that the others cannot hold. */
export type Shape = "choice" | "boolean" | "integer" | "number" | "string" | "object" | "list" | "variants" | "json";

/** References to references; a circle of them is no schema. */
const REFERENCES_MAX = 20;

/** The schema with its reference followed; what stands beside the reference goes first. */
export function resolved(schema: Schema, root: Schema): Schema {
  let found = schema;
  for (let tries = 0; tries < REFERENCES_MAX; tries++) {
    const { $ref, allOf, ...own } = found;
    const next = $ref !== undefined ? root.$defs?.[$ref.replace(/^#\/\$defs\//, "")] : allOf?.length === 1 ? allOf[0] : undefined;
    if (!next) return found;
    found = { ...next, ...own };
  }
  return {};
}

/** The ways in which a value may be given; null is none, because a field can be left out. */
export function variantsOf(schema: Schema, root: Schema): Schema[] {
  const all = schema.anyOf ?? schema.oneOf;
  if (all) return all.map((one) => resolved(one, root)).filter((one) => one.type !== "null");
  if (!Array.isArray(schema.type)) return [schema];
  return schema.type.filter((type) => type !== "null").map((type) => ({ ...schema, type }));
}

/** Whether null is a value of it. */
export const isNullable = (schema: Schema, root: Schema): boolean =>
  [schema.type].flat().includes("null") || (schema.anyOf ?? schema.oneOf ?? []).some((one) => resolved(one, root).type === "null");

/** The schema without its null, and how it is shown. */
export function shapeOf(given: Schema, root: Schema): { schema: Schema; shape: Shape } {
  const whole = resolved(given, root);
  const variants = variantsOf(whole, root);
  if (variants.length > 1) return { schema: whole, shape: "variants" };
  const { title, description, default: value } = whole;
  const own = { ...(title !== undefined && { title }), ...(description !== undefined && { description }), ...(value !== undefined && { default: value }) };
  const schema: Schema = variants[0] === whole ? whole : { ...variants[0], ...own };
  return { schema, shape: plainShape(schema) };
}

function plainShape(schema: Schema): Shape {
  if (schema.enum || schema.const !== undefined) return "choice";
  switch (schema.type) {
    case "boolean":
    case "integer":
    case "number":
    case "string":
      return schema.type;
    case "object":
      return Object.keys(schema.properties ?? {}).length > 0 ? "object" : "json";
    case "array":
      return schema.items && !schema.prefixItems ? "list" : "json";
  }
  return "json";
}

/** What a field holds before a person has touched it; undefined is nothing. */
export function initial(given: Schema, root: Schema, isRequired: boolean): unknown {
  const { schema, shape } = shapeOf(given, root);
  if (schema.default !== undefined) return schema.default ?? undefined;
  if (schema.const !== undefined && isRequired) return schema.const;
  if (!isRequired) return undefined;
  if (shape === "boolean") return false;
  if (shape === "list") return Array.from({ length: schema.minItems ?? 0 }, () => initial(schema.items!, root, true));
  if (shape === "variants") return initial(variantsOf(schema, root)[0]!, root, true);
  if (shape !== "object") return undefined;
  const required = new Set(schema.required);
  return Object.fromEntries(Object.entries(schema.properties!).map(([name, field]) => [name, initial(field, root, required.has(name))]));
}

/** Which of the variants a value is of: the first that is like it. */
export function variantOf(value: unknown, variants: Schema[]): number {
  const at = variants.findIndex((schema) => isLike(value, schema));
  return at < 0 ? 0 : at;
}

function isLike(value: unknown, schema: Schema): boolean {
  if (schema.const !== undefined) return schema.const === value;
  if (schema.enum) return schema.enum.includes(value);
  if (Array.isArray(value)) return schema.type === "array";
  if (typeof value === "object" && value !== null) {
    // (Of two objects the one whose every tag fits, and which has all that it must have.)
    const fields = Object.entries(schema.properties ?? {});
    return (
      schema.type === "object" &&
      (schema.required ?? []).every((name) => name in value) &&
      fields.every(([name, field]) => field.const === undefined || (value as { [name: string]: unknown })[name] === field.const)
    );
  }
  if (typeof value === "number") return schema.type === "number" || (schema.type === "integer" && Number.isInteger(value));
  return typeof value === schema.type;
}

/** The value without what was left out. */
export function pruned(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(pruned);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).filter(([, part]) => part !== undefined).map(([name, part]) => [name, pruned(part)]));
}
