// What one Node client does through the proxy, as one line of JSON. `test_clients.py` runs it and knows what it must say.
//
//   node node_clients.mjs openai|anthropic|ai BASE_URL '{"rich": KEY, "poor": KEY, "short": KEY, "leaving": KEY}'

const [client, baseURL, keysGiven] = process.argv.slice(2);
const keys = JSON.parse(keysGiven);
const TOKENS = 4;
const WITHOUT_END = 1000;
let requests = 0;

function counting(...request) {
  requests += 1;
  return fetch(...request);
}

// Each client: a whole answer as text, and a stream as an asynchronous sequence of texts that throws what the client says went wrong.
const CLIENTS = {
  async openai() {
    const { OpenAI } = await import("openai");
    const ask = (key, prompt, tokens, more, options) =>
      new OpenAI({ baseURL: `${baseURL}/v1`, apiKey: key, fetch: counting }).chat.completions.create(
        { model: "tiny", messages: [{ role: "user", content: prompt }], max_tokens: tokens, ...more },
        options,
      );
    return {
      whole: async (key, prompt) => (await ask(key, prompt, TOKENS)).choices[0].message.content,
      async *stream(key, prompt, tokens, signal) {
        for await (const chunk of await ask(key, prompt, tokens, { stream: true }, { signal })) {
          if (chunk.choices[0]?.delta.content) yield chunk.choices[0].delta.content;
        }
      },
    };
  },

  async anthropic() {
    const { Anthropic } = await import("@anthropic-ai/sdk");
    const connect = (key) => new Anthropic({ baseURL, apiKey: key, fetch: counting });
    const asked = (prompt, tokens) => ({ model: "tiny", messages: [{ role: "user", content: prompt }], max_tokens: tokens });
    return {
      whole: async (key, prompt) => (await connect(key).messages.create(asked(prompt, TOKENS))).content[0].text,
      async *stream(key, prompt, tokens, signal) {
        const events = await connect(key).messages.create({ ...asked(prompt, tokens), stream: true }, { signal });
        for await (const event of events) {
          if (event.type === "content_block_delta") yield event.delta.text;
        }
      },
    };
  },

  async ai() {
    const { generateText, streamText } = await import("ai");
    const { createOpenAICompatible } = await import("@ai-sdk/openai-compatible");
    const asked = (key, prompt, tokens) => ({
      model: createOpenAICompatible({ name: "ledger", baseURL: `${baseURL}/v1`, apiKey: key, fetch: counting }).chatModel("tiny"),
      prompt,
      maxOutputTokens: tokens,
    });
    return {
      whole: async (key, prompt) => (await generateText(asked(key, prompt, TOKENS))).text,
      async *stream(key, prompt, tokens, signal) {
        const result = streamText({ ...asked(key, prompt, tokens), abortSignal: signal, onError() {} });
        for await (const part of result.fullStream) {
          if (part.type === "error") throw part.error;
          if (part.type === "text-delta") yield part.text;
        }
      },
    };
  },
};

function described(error) {
  const inner = error.lastError ?? error; // what `ai` tried again
  return {
    name: inner.constructor.name,
    status: inner.status ?? inner.statusCode ?? null,
    said: `${inner.message ?? ""} ${JSON.stringify(inner.error ?? inner)}`,
  };
}

async function attempt(run) {
  const [before, began] = [requests, Date.now()];
  const outcome = { texts: [], error: null };
  try {
    await run(outcome.texts);
  } catch (error) {
    outcome.error = described(error);
  }
  return { ...outcome, requests: requests - before, seconds: (Date.now() - began) / 1000 };
}

const { whole, stream } = await CLIENTS[client]();
const collect = async (texts, ...request) => {
  for await (const text of stream(...request)) texts.push(text);
};
const report = {
  whole: await attempt(async (texts) => texts.push(await whole(keys.rich, "hello"))),
  stream: await attempt((texts) => collect(texts, keys.rich, "hello", TOKENS)),
  refused: await attempt(async () => whole(keys.poor, "hello")),
  refusedStream: await attempt((texts) => collect(texts, keys.poor, "hello", TOKENS)),
  cut: await attempt((texts) => collect(texts, keys.short, "hello", WITHOUT_END)),
  throttled: await attempt(async () => whole(keys.rich, "later")),
  vanished: await attempt((texts) => collect(texts, keys.rich, "vanish", TOKENS)),
  left: await attempt(async (texts) => {
    const leaving = new AbortController();
    for await (const text of stream(keys.leaving, "wait!", TOKENS, leaving.signal)) {
      texts.push(text);
      if (texts.length === 3) leaving.abort();
    }
  }),
};
console.log(JSON.stringify(report));
