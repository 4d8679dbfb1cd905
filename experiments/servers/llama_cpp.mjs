// An OpenAI-compatible server on 127.0.0.1 in front of llama.cpp, as node-llama-cpp 3.22 brings it built.
// usage: node llama_cpp.mjs MODEL.gguf PORT
// The arithmetic is llama.cpp's. Requests, ChatML prompts and draws are of this file; one request runs at a time.
import { createServer } from "node:http";
import { getLlama } from "node-llama-cpp";

const [file, port] = process.argv.slice(2);
const llama = await getLlama({ gpu: false, build: "never", maxThreads: 1, logLevel: "error" });
const model = await llama.loadModel({ modelPath: file });
const context = await model.createContext({ contextSize: 2048, threads: 1 });
const sequence = context.getSequence();

// mulberry32: a small generator whose draws follow from the request's seed alone
function random(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

function distribution(logits) {
  let max = -Infinity;
  for (const value of logits.values()) max = Math.max(max, value);
  let total = 0;
  for (const value of logits.values()) total += Math.exp(value - max);
  return { max, log: max + Math.log(total) };
}

function draw(logits, temperature, topK, next) {
  const sorted = [...logits.entries()]; // the likeliest first, as node-llama-cpp gives them
  if (temperature === 0) return sorted[0][0];
  const kept = topK > 0 ? sorted.slice(0, topK) : sorted;
  const weights = kept.map(([, value]) => Math.exp((value - kept[0][1]) / temperature));
  let left = next() * weights.reduce((sum, weight) => sum + weight, 0);
  for (let at = 0; at < kept.length; at++) if ((left -= weights[at]) < 0) return kept[at][0];
  return kept[0][0];
}

const wanted = { generateNext: { logits: true } };

// Return the ids with what is written behind them, and every token's log-probability; those of the prompt if asked for.
async function run(ids, body, scored) {
  await sequence.clearHistory();
  const input = ids.map((id, at) => (scored || at === ids.length - 1 ? [id, wanted] : id));
  const output = await sequence.controlledEvaluate(input);
  const values = [null];
  for (let at = 0; scored && at < ids.length - 1; at++) {
    const logits = output[at].next.logits;
    values.push(logits.get(ids[at + 1]) - distribution(logits).log);
  }
  while (values.length < ids.length) values.push(null);
  const whole = [...ids];
  const next = random(body.seed ?? 0);
  let logits = output[ids.length - 1].next.logits;
  let reason = "length";
  for (let count = 0; count < (body.max_tokens ?? 16); count++) {
    const token = draw(logits, body.temperature ?? 1, body.top_k ?? 0, next);
    whole.push(token);
    values.push(logits.get(token) - distribution(logits).log);
    if (model.isEogToken(token)) {
      reason = "stop";
      break;
    }
    logits = (await sequence.controlledEvaluate([[token, wanted]]))[0].next.logits;
  }
  return { whole, values, reason };
}

function prompt(messages) {
  const turns = messages.map(({ role, content }) => `<|im_start|>${role}\n${content}<|im_end|>\n`);
  return `${turns.join("")}<|im_start|>assistant\n`;
}

function written(whole, from) {
  return model.detokenize(whole.slice(from).filter((token) => !model.isEogToken(token)), true);
}

async function chat(body) {
  const ids = model.tokenize(prompt(body.messages), true);
  const choices = [];
  let count = 0;
  for (let index = 0; index < (body.n ?? 1); index++) {
    const { whole, values, reason } = await run(ids, { ...body, seed: (body.seed ?? 0) + index }, false);
    count += whole.length - ids.length;
    const content = whole.slice(ids.length).map((token, at) => ({
      token: model.isEogToken(token) ? "" : model.detokenize([token], true),
      logprob: values[ids.length + at],
      top_logprobs: [],
    }));
    const message = { role: "assistant", content: written(whole, ids.length) };
    choices.push({ index, message, finish_reason: reason, logprobs: body.logprobs ? { content } : null });
  }
  return { choices, usage: { prompt_tokens: ids.length, completion_tokens: count } };
}

async function complete(body) {
  const ids = typeof body.prompt === "string" ? model.tokenize(body.prompt, true) : body.prompt;
  const { whole, values, reason } = await run(ids, body, Boolean(body.echo));
  const from = body.echo ? 0 : ids.length;
  const tokens = whole.slice(from).map((token) => `token_id:${token}`);
  const logprobs = { tokens, token_logprobs: values.slice(from), top_logprobs: null };
  return { choices: [{ index: 0, text: written(whole, from), finish_reason: reason, logprobs }] };
}

let last = Promise.resolve();
createServer((request, reply) => {
  const parts = [];
  request.on("data", (part) => parts.push(part));
  request.on("end", () => {
    last = last.then(async () => {
      let code = 200;
      let value;
      try {
        if (request.url === "/v1/models") value = { data: [{ id: "smollm2", owned_by: "llama.cpp" }] };
        else {
          const body = JSON.parse(Buffer.concat(parts).toString());
          if (request.url === "/v1/chat/completions") value = await chat(body);
          else if (request.url === "/v1/completions") value = await complete(body);
          else [code, value] = [404, { error: { message: "no such request" } }];
        }
      } catch (error) {
        [code, value] = [500, { error: { message: String(error) } }];
      }
      reply.writeHead(code, { "content-type": "application/json" }).end(JSON.stringify(value));
    });
  });
}).listen(Number(port), "127.0.0.1", () => console.log("ready"));
