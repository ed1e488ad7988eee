"use strict";

const PREFIX = "#/components/schemas/";
const MAX_SHOWN = 200000;
let description;

function element(name, attributes, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value === true) node.setAttribute(key, "");
    else if (value !== false && value != null) node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
}

function resolve(schema) {
  const reference = schema && schema.$ref;
  return reference ? description.components.schemas[reference.slice(PREFIX.length)] : schema;
}

function typeName(schema) {
  if (!schema || Object.keys(schema).length === 0) return "any JSON";
  if (schema.$ref) return schema.$ref.slice(PREFIX.length);
  if (schema.anyOf) return schema.anyOf.map(typeName).join(" or ");
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" or ");
  if (schema.type === "array") return "array of " + typeName(schema.items);
  return [].concat(schema.type || "any JSON").join(" or ");
}

function example(schema, depth = 0) {
  const real = resolve(schema) || {};
  if (depth > 5) return null;
  if ("default" in real) return real.default;
  if (real.enum) return real.enum[0];
  if (real.anyOf) return example(real.anyOf[0], depth + 1);
  switch ([].concat(real.type)[0]) {
    case "object": {
      const made = {};
      for (const name of real.required || []) {
        made[name] = example(real.properties[name], depth + 1);
      }
      return made;
    }
    case "array": return real.items ? [example(real.items, depth + 1)] : [];
    case "integer": return Math.max(1, real.minimum || 0);
    case "number": return 1;
    case "boolean": return false;
    case "string": return "text";
    default: return null;
  }
}

function fieldTable(schema) {
  const real = resolve(schema);
  if (!real) return "";
  if (real.anyOf) return element("div", {}, ...real.anyOf.map(fieldTable));
  if (real.type === "array") return fieldTable(real.items || {});
  if (!real.properties) return "";
  const table = element("table", {}, element("tr", {},
    element("th", {}, "Field"), element("th", {}, "Type"), element("th", {}, "Default")));
  for (const [name, part] of Object.entries(real.properties)) {
    const isRequired = (real.required || []).includes(name);
    const preset = "default" in part ? JSON.stringify(part.default) : "";
    table.append(element("tr", {}, element("td", {}, element("code", {}, name)),
      element("td", {}, typeName(part), part.description ? ": " + part.description : ""),
      element("td", {}, isRequired ? "required" : preset)));
  }
  return table;
}

function parameterTable(parameters, inputs) {
  const table = element("table", {}, element("tr", {}, element("th", {}, "Parameter"),
    element("th", {}, "In"), element("th", {}, "Type"), element("th", {}, "Value")));
  for (const parameter of parameters) {
    const input = element("input", { "aria-label": parameter.name, name: parameter.name });
    inputs.push([parameter, input]);
    table.append(element("tr", {},
      element("td", {}, element("code", {}, parameter.name), parameter.required ? " *" : ""),
      element("td", {}, parameter.in),
      element("td", {}, typeName(parameter.schema),
        parameter.description ? ": " + parameter.description : ""),
      element("td", {}, input)));
  }
  return table;
}

function request(method, path, inputs, media, body) {
  const query = new URLSearchParams();
  const headers = {};
  for (const [parameter, input] of inputs) {
    if (parameter.in === "path") {
      path = path.replace("{" + parameter.name + "}", encodeURIComponent(input.value));
    } else if (input.value !== "") {
      if (parameter.in === "query") query.append(parameter.name, input.value);
      else headers[parameter.name] = input.value;
    }
  }
  const key = document.getElementById("key").value;
  if (key) headers["X-API-Key"] = key;
  if (media) headers["Content-Type"] = media;
  const suffix = query.size ? "?" + query : "";
  return [path + suffix, { method, headers, body: media ? body : undefined }];
}

async function show(response, output) {
  output.textContent = response.status + " " + response.statusText + "\n";
  const reader = response.body ? response.body.getReader() : null;
  const decoder = new TextDecoder();
  let text = "";
  while (reader) {
    const { done, value } = await reader.read();
    if (done) break;
    text += decoder.decode(value, { stream: true });
    if (text.length > MAX_SHOWN) {
      text += "\n[the rest is not shown]";
      await reader.cancel();
      break;
    }
    output.textContent = response.status + " " + response.statusText + "\n" + text;
  }
  try {
    text = JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    // not JSON: shown as it came
  }
  output.textContent = response.status + " " + response.statusText + "\n" + text;
}

function tryForm(method, path, operation, inputs) {
  const content = operation.requestBody ? operation.requestBody.content : {};
  const medias = Object.keys(content).filter((media) => media !== "application/octet-stream");
  const media = element("select", { "aria-label": "Content type" },
    ...medias.map((name) => element("option", {}, name)));
  const body = element("textarea", { "aria-label": "Body", spellcheck: "false" });
  if (medias[0] === "application/json") {
    body.value = JSON.stringify(example(content[medias[0]].schema), null, 2);
  }
  const send = element("button", { type: "submit" }, "Send");
  const stop = element("button", { type: "button", hidden: true }, "Stop");
  const output = element("pre", { hidden: true, "aria-live": "polite" });
  const form = element("form", {}, ...(medias.length ? [media, body] : []), send, stop, output);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const aborter = new AbortController();
    stop.onclick = () => aborter.abort();
    send.disabled = true;
    stop.hidden = output.hidden = false;
    try {
      const [url, options] = request(method, path, inputs, medias.length && media.value, body.value);
      await show(await fetch(url, { ...options, signal: aborter.signal }), output);
    } catch (error) {
      output.textContent += "\n" + error.message;
    }
    send.disabled = false;
    stop.hidden = true;
  });
  return form;
}

function fill(box, method, path, operation) {
  const inputs = [];
  if (operation.description) box.append(element("p", {}, operation.description));
  if (operation.parameters.length) {
    box.append(element("h3", {}, "Parameters"), parameterTable(operation.parameters, inputs));
  }
  const content = operation.requestBody ? operation.requestBody.content : {};
  for (const [media, { schema }] of Object.entries(content)) {
    box.append(element("h3", {}, "Body: " + media),
      element("p", {}, schema.description || typeName(schema)), fieldTable(schema));
  }
  for (const [status, response] of Object.entries(operation.responses)) {
    if (Number(status) >= 400) continue;
    box.append(element("h3", {}, "Answer: " + status + " " + response.description));
    for (const [media, { schema }] of Object.entries(response.content || {})) {
      box.append(element("p", {}, media + ": " + typeName(schema)), fieldTable(schema));
    }
  }
  const refused = Object.keys(operation.responses).filter((status) => Number(status) >= 400);
  box.append(element("p", {}, "Errors: " + refused.join(", ")));
  box.append(element("h3", {}, "Try it"), tryForm(method, path, operation, inputs));
}

function entry(method, path, operation) {
  const box = element("div");
  const details = element("details", { class: "operation", id: operation.operationId },
    element("summary", {}, element("span", { class: "method " + method }, method),
      element("code", {}, path), element("span", { class: "about" }, operation.summary)), box);
  details.addEventListener("toggle", () => {
    if (!box.hasChildNodes()) fill(box, method, path, operation);
  });
  return details;
}

function build() {
  const main = document.getElementById("operations");
  const sections = new Map();
  main.replaceChildren();
  document.getElementById("version").textContent = description.info.version;
  for (const { name } of description.tags) {
    const section = element("section", { id: "tag-" + name }, element("h2", {}, name));
    sections.set(name, section);
    main.append(section);
    document.getElementById("tags").append(element("a", { href: "#tag-" + name }, name), " ");
  }
  for (const [path, methods] of Object.entries(description.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      sections.get(operation.tags[0]).append(entry(method.toUpperCase(), path, operation));
    }
  }
  main.setAttribute("aria-busy", "false");
}

function filter(text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  for (const details of document.querySelectorAll("details.operation")) {
    const shown = details.querySelector("summary").textContent.toLowerCase();
    details.hidden = !words.every((word) => shown.includes(word));
  }
  for (const section of document.querySelectorAll("main section")) {
    section.hidden = !section.querySelector("details.operation:not([hidden])");
  }
}

async function start() {
  document.getElementById("access").addEventListener("submit", (event) => event.preventDefault());
  document.getElementById("find").addEventListener("input", (event) => filter(event.target.value));
  try {
    const response = await fetch("/docs/openapi.json");
    if (!response.ok) throw new Error("the description answers " + response.status);
    description = await response.json();
    build();
  } catch (error) {
    document.getElementById("operations").replaceChildren(
      element("p", { class: "fault" }, "Can't show the API: " + error.message));
  }
}

start();
