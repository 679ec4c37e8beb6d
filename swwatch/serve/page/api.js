// Requests to the server that brought this page; nothing goes anywhere else.

const KEY = "swwatch token";

/** The server wants a token, or another one. */
export class Unauthorised extends Error {}

export const keepToken = (token) => sessionStorage.setItem(KEY, token);
const kept = () => sessionStorage.getItem(KEY);

/** Take the token out of the page's own address, http://host/#token=T, which a browser sends nowhere. */
export function takeTokenFromAddress() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (!token) return;
  keepToken(token);
  history.replaceState(null, "", location.pathname + location.search);
}

async function ask(path, options = {}) {
  const token = kept();
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const response = await fetch(path, { ...options, headers });
  if (response.status === 401) throw new Unauthorised("This server wants a token.");
  if (!response.ok) {
    const told = await response.json().catch(() => ({}));
    throw new Error((told.error ?? told).message ?? `The server answered ${response.status} to ${path}.`);
  }
  return response;
}

export const getJson = async (path) => (await ask(path)).json();

/** Send a file to the server's disk; returns its id. */
export async function upload(file) {
  const body = new FormData();
  body.append("file", file);
  return (await (await ask("api/uploads", { method: "POST", body })).json()).id;
}

/** Remove it again; a file that is already gone is no news. */
export const forget = (id) => ask(`api/uploads/${encodeURIComponent(id)}`, { method: "DELETE" }).catch(() => null);

/** Hand a file of the server to the browser's downloads. */
export async function download(path, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await (await ask(path)).blob());
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** Text of the server that grows, piece by piece, to its end. */
export async function* follow(path, signal) {
  const reader = (await ask(path, { signal })).body.pipeThrough(new TextDecoderStream()).getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) yield part.value;
}

/** Where the socket is, and how it shows the token: browsers can set no header, but may offer a subprotocol. */
export function socketAddress() {
  const url = new URL("api/live", location.href);
  url.protocol = url.protocol.replace("http", "ws");
  const token = kept();
  return { url: url.href, protocols: token ? [`swwatch.token.${token}`] : [] };
}
