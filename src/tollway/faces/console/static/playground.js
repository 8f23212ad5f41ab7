// The playground: sends the conversation, reads OpenAI's event stream piece by piece, and can stop it.
"use strict";
(() => {
  const root = document.getElementById("playground");
  if (!root) return;
  const at = (id) => document.getElementById(id);
  const messages = [];
  let running = null;

  const show = (role, text, by) => {
    at("hello")?.remove();
    const message = document.createElement("div");
    message.className = `message ${role}`;
    const author = document.createElement("span");
    author.className = "by";
    author.textContent = by;
    const body = document.createElement("div");
    body.className = "text";
    body.textContent = text;
    message.append(author, body);
    at("messages").append(message);
    at("messages").scrollTop = at("messages").scrollHeight;
    return message;
  };
  const payload = () => {
    const system = at("system").value.trim();
    return {
      model: at("model").value,
      messages: [...(system ? [{ role: "system", content: system }] : []), ...messages],
      temperature: Number(at("temperature").value),
      max_tokens: Number(at("max-tokens").value) || 256,
    };
  };
  const busy = (state) => {
    at("send").hidden = state;
    at("stop").hidden = !state;
    at("messages").setAttribute("aria-busy", String(state));
  };

  // One piece of the stream; returns the text it adds. An error inside the stream is thrown.
  const piece = (line) => {
    if (!line.startsWith("data:")) return "";
    const data = line.slice(5).trim();
    if (!data || data === "[DONE]") return "";
    const chunk = JSON.parse(data);
    if (chunk.error) throw new Error(chunk.error.message);
    return chunk.choices?.[0]?.delta?.content ?? "";
  };
  const read = async (response, add) => {
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      const lines = (rest + (value ?? "")).split("\n");
      rest = done ? "" : lines.pop();
      for (const line of lines) add(piece(line));
      if (done) return;
    }
  };
  const receipt = async (request) => {
    if (!request) return;
    const response = await fetch(`${root.dataset.receipt}?request=${encodeURIComponent(request)}`, { headers: { "hx-request": "true" } });
    if (response.ok) at("receipt").innerHTML = await response.text(); // our own server's escaped template
  };

  const ask = async (text) => {
    messages.push({ role: "user", content: text });
    show("user", text, root.dataset.you);
    const answer = show("assistant busy", "", at("model").value);
    const body = answer.querySelector(".text");
    running = new AbortController();
    busy(true);
    let request = "";
    let written = "";
    try {
      const response = await fetch(root.dataset.chat, {
        method: "POST", signal: running.signal, body: JSON.stringify(payload()),
        headers: { "content-type": "application/json", "x-csrf-token": document.querySelector('meta[name="csrf"]').content },
      });
      request = response.headers.get("x-request-id") ?? "";
      if (!response.ok) throw new Error((await response.json()).error.message);
      await read(response, (more) => {
        written += more;
        body.textContent = written;
        at("messages").scrollTop = at("messages").scrollHeight;
      });
    } catch (error) {
      if (error.name === "AbortError") {
        show("note", root.dataset.stopped, "").querySelector(".by").remove();
      } else {
        answer.classList.add("failed");
        body.textContent = `${written}${written ? "\n" : ""}${root.dataset.failed} ${error.message}`;
      }
    }
    if (written) messages.push({ role: "assistant", content: written });
    else messages.pop();
    answer.classList.remove("busy");
    running = null;
    busy(false);
    at("prompt").focus();
    setTimeout(() => receipt(request), 400); // the event of a stopped call is written a moment later
  };

  at("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = at("prompt").value.trim();
    if (!text || running) return;
    at("prompt").value = "";
    ask(text);
  });
  at("prompt").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); at("ask").requestSubmit(); }
  });
  at("stop").addEventListener("click", () => running?.abort());
  at("temperature").addEventListener("input", () => { at("temperature-value").textContent = at("temperature").value; });
  at("clear").addEventListener("click", () => { running?.abort(); messages.length = 0; at("messages").replaceChildren(); at("prompt").focus(); });
  at("as-curl").addEventListener("click", async (event) => {
    const body = JSON.stringify({ ...payload(), stream: true }, null, 2).replaceAll("'", "'\\''");
    const lines = [`curl ${root.dataset.base}/chat/completions`, '-H "Authorization: Bearer $TOLLWAY_KEY"', '-H "Content-Type: application/json"', `-d '${body}'`];
    await window.tollway.copyText(lines.join(" \\\n  "));
    window.tollway.say(event.target.closest("button"));
  });
})();
