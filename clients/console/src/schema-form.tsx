/** The fields of a schema: nested objects, lists, choices, and JSON for what is none of these. */

import { useState } from "react";
import { initial, isNullable, type Schema, type Shape, shapeOf, variantOf, variantsOf } from "./schema.js";
import { inert, json } from "./inert.js";

interface FieldProps {
  /** Where the value is, such as `author.name`: part of the element's id. */
  path: string;
  name: string;
  schema: Schema;
  root: Schema;
  isRequired: boolean;
  value: unknown;
  onChange: (value: unknown) => void;
}

/** The properties of an object, one under the other. */
export function Fields({ path, schema, root, value, onChange }: Omit<FieldProps, "name" | "isRequired">) {
  const held = (value ?? {}) as { [name: string]: unknown };
  const required = new Set(schema.required);
  return Object.entries(schema.properties ?? {}).map(([name, field]) => (
    <Field
      key={name}
      path={path ? `${path}.${name}` : name}
      name={name}
      schema={field}
      root={root}
      isRequired={required.has(name)}
      value={held[name]}
      onChange={(part) => onChange({ ...held, [name]: part })}
    />
  ));
}

function Field(props: FieldProps) {
  const { schema, shape } = shapeOf(props.schema, props.root);
  // (Of what is referred to, the title names the type: two fields of one type must not be called the same.)
  const own = { ...props, schema: { ...schema, title: props.schema.title ?? spoken(props.name) } };
  if (shape === "object") return <ObjectField {...own} />;
  if (shape === "list") return <ListField {...own} />;
  if (shape === "variants") return <VariantField {...own} />;
  return <ValueField {...own} shape={shape} />;
}

const spoken = (name: string): string => name.charAt(0).toUpperCase() + name.slice(1).replaceAll("_", " ");

const labelOf = ({ schema, name, isRequired }: FieldProps) => `${inert(schema.title ?? name)}${isRequired ? " *" : ""}`;

function ValueField(props: FieldProps & { shape: Shape }) {
  const { path, schema, shape, isRequired } = props;
  const id = `field-${path}`;
  const about = schema.description ?? aboutOf(schema, shape);
  return (
    <div className={shape === "boolean" && isSwitch(props) ? "field switch" : "field"}>
      <label htmlFor={id}>{labelOf(props)}</label>
      <Input {...props} id={id} />
      {about && <small id={`${id}-about`}>{inert(about)}</small>}
      {isRequired && shape === "choice" && schema.const !== undefined && <small>always the same</small>}
    </div>
  );
}

/** A boolean that cannot be left out has two states; another one has three. */
const isSwitch = ({ schema, isRequired }: FieldProps) => isRequired || typeof schema.default === "boolean";

/** What the schema says about the value, for a person. */
function aboutOf({ minimum, maximum, exclusiveMinimum, exclusiveMaximum, minLength, maxLength, pattern, format }: Schema, shape: Shape): string {
  const least = minimum !== undefined ? `from ${minimum}` : exclusiveMinimum !== undefined ? `more than ${exclusiveMinimum}` : "";
  const most = maximum !== undefined ? `up to ${maximum}` : exclusiveMaximum !== undefined ? `less than ${exclusiveMaximum}` : "";
  const fewest = minLength ? `at least ${minLength} characters` : "";
  const longest = maxLength !== undefined ? `at most ${maxLength} characters` : "";
  const own = shape === "json" ? "as JSON" : shape === "integer" ? "a whole number" : shape === "number" ? "a number" : "";
  return [own, least, most, fewest, longest, pattern && `like ${pattern}`, format].filter(Boolean).join(", ");
}

function Input(props: FieldProps & { shape: Shape; id: string }) {
  const { id, schema, shape, isRequired, value, onChange } = props;
  const shared = { id, required: isRequired, "aria-describedby": `${id}-about` };
  // Nothing is left out, unless that would mean the default.
  const onText = ({ target }: { target: { value: string } }) => onChange(target.value === "" && typeof schema.default !== "string" ? undefined : target.value);
  const text = typeof value === "string" ? value : "";
  if (shape === "choice") return <Choice {...shared} values={schema.enum ?? [schema.const]} value={value} onChange={onChange} />;
  if (shape === "boolean") {
    if (isSwitch(props)) return <input {...shared} required={false} type="checkbox" checked={value === true} onChange={(event) => onChange(event.target.checked)} />;
    return <Choice {...shared} values={[true, false]} value={value} onChange={onChange} />;
  }
  if (shape === "integer" || shape === "number") {
    const range = { min: schema.minimum ?? schema.exclusiveMinimum, max: schema.maximum ?? schema.exclusiveMaximum };
    const onNumber = ({ target }: { target: { value: string } }) => onChange(target.value === "" ? undefined : Number(target.value));
    return <input {...shared} {...range} type="number" placeholder={typeof schema.default === "number" ? String(schema.default) : undefined} step={schema.multipleOf ?? (shape === "integer" ? 1 : "any")} value={typeof value === "number" ? value : ""} onChange={onNumber} />;
  }
  if (shape === "json") return <JsonInput {...shared} value={value} onChange={onChange} />;
  const length = { minLength: schema.minLength, maxLength: schema.maxLength };
  const type = { password: "password", email: "email", uri: "url", date: "date" }[schema.format ?? ""];
  if (type || schema.pattern) return <input {...shared} {...length} type={type ?? "text"} pattern={schema.pattern && `.*(?:${schema.pattern}).*`} autoComplete="off" value={text} onChange={onText} />;
  return <TextInput {...shared} {...length} value={text} onChange={onText} />;
}

interface TextInputProps extends Omit<React.TextareaHTMLAttributes<HTMLTextAreaElement>, "value"> {
  value: string;
}

/** Text that may grow to many lines: Enter sends the form, Shift and Enter begin a line. */
const TextInput = (props: TextInputProps) => (
  <textarea
    {...props}
    className="grows"
    rows={Math.min(props.value.split("\n").length, 12)}
    onKeyDown={(event) => {
      if (event.key !== "Enter" || event.shiftKey || event.nativeEvent.isComposing) return;
      event.preventDefault();
      event.currentTarget.form?.requestSubmit();
    }}
  />
);

interface PartProps {
  id: string;
  required: boolean;
  value: unknown;
  onChange: (value: unknown) => void;
}

function Choice({ values, value, onChange, ...shared }: PartProps & { values: readonly unknown[] }) {
  const at = values.indexOf(value);
  return (
    <select {...shared} value={at < 0 ? "" : at} onChange={(event) => onChange(event.target.value === "" ? undefined : values[Number(event.target.value)])}>
      {!(shared.required && at >= 0) && <option value="" />}
      {values.map((one, number) => <option key={number} value={number}>{typeof one === "string" ? inert(one) : json(one)}</option>)}
    </select>
  );
}

/** A value as JSON. What is none keeps the form from being sent, and says why. */
export function JsonInput({ value, onChange, ...shared }: PartProps & { rows?: number }) {
  const [text, setText] = useState(() => (value === undefined ? "" : JSON.stringify(value, null, 2)));
  const change = (event: React.ChangeEvent<HTMLTextAreaElement>) => {
    const { target } = event;
    setText(target.value);
    target.setCustomValidity("");
    if (target.value.trim() === "") return onChange(undefined);
    try {
      onChange(JSON.parse(target.value));
    } catch (error) {
      target.setCustomValidity(`This is not JSON: ${(error as Error).message}`);
    }
  };
  return <textarea rows={3} {...shared} className="code" spellCheck={false} placeholder="JSON" value={text} onChange={change} />;
}

function ObjectField(props: FieldProps) {
  const { schema, root, isRequired, value, onChange } = props;
  const canGo = !isRequired || isNullable(props.schema, root);
  return (
    <fieldset>
      <legend>{labelOf(props)}</legend>
      {schema.description && <small>{inert(schema.description)}</small>}
      {value === undefined || value === null ? (
        <button type="button" onClick={() => onChange(initial({ ...schema, default: undefined }, root, true))}>Add {inert(schema.title ?? props.name)}</button>
      ) : (
        <>
          <Fields {...props} />
          {canGo && <button type="button" onClick={() => onChange(undefined)}>Remove</button>}
        </>
      )}
    </fieldset>
  );
}

function ListField(props: FieldProps) {
  const { path, name, schema, root, value, onChange } = props;
  const held = Array.isArray(value) ? (value as unknown[]) : [];
  const item = schema.items!;
  const replace = (at: number, ...parts: unknown[]) => onChange(held.toSpliced(at, 1, ...parts));
  return (
    <fieldset>
      <legend>{labelOf(props)}</legend>
      {schema.description && <small>{inert(schema.description)}</small>}
      {held.map((part, at) => (
        // (A list in a form is short, and its parts have no names but their places.)
        <div key={`${at} of ${held.length}`} className="item">
          <Field path={`${path}.${at}`} name={`${schema.title ?? name} ${at + 1}`} schema={{ ...shapeOf(item, root).schema, title: `${schema.title ?? name} ${at + 1}` }} root={root} isRequired value={part} onChange={(next) => replace(at, next)} />
          <button type="button" aria-label={`Remove ${inert(schema.title ?? name)} ${at + 1}`} disabled={held.length <= (schema.minItems ?? 0)} onClick={() => replace(at)}>×</button>
        </div>
      ))}
      <button type="button" disabled={held.length >= (schema.maxItems ?? Infinity)} onClick={() => onChange([...held, initial(item, root, true)])}>Add to {inert(schema.title ?? name)}</button>
    </fieldset>
  );
}

function VariantField(props: FieldProps) {
  const { path, schema, root, isRequired, value, onChange } = props;
  const variants = variantsOf(schema, root);
  const [chosen, setChosen] = useState(() => (value === undefined ? (isRequired ? 0 : -1) : variantOf(value, variants)));
  const choose = (at: number) => {
    setChosen(at);
    onChange(at < 0 ? undefined : initial(variants[at]!, root, true));
  };
  const id = `field-${path}-variant`;
  return (
    <fieldset>
      <legend>{labelOf(props)}</legend>
      {schema.description && <small>{inert(schema.description)}</small>}
      <div className="field">
        <label htmlFor={id}>Kind of {inert(schema.title ?? props.name)}</label>
        <select id={id} value={chosen} onChange={(event) => choose(Number(event.target.value))}>
          {!isRequired && <option value={-1}>left out</option>}
          {variants.map((one, at) => <option key={at} value={at}>{inert(one.title ?? one.type ?? "JSON")}</option>)}
        </select>
      </div>
      {chosen >= 0 && <Field key={chosen} {...props} schema={{ ...variants[chosen]!, title: variants[chosen]!.title ?? schema.title ?? props.name }} isRequired />}
    </fieldset>
  );
}
