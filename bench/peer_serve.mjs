// Side by side with llama.cpp on the same weights: prefill, decode, and time to first token after a repeated, an appended
// and a branched prompt. kvasir is `kvasir serve` over HTTP; llama.cpp is the build in node-llama-cpp (npm), in a process
// of its own, because that package has no server binary: its times are without HTTP, and its prompt cache is what
// node-llama-cpp offers (one state, plus checkpoints of it).
//
//   kvasir export-gguf -m models/nano --type mxfp4 --out nano.gguf
//   node bench/peer_serve.mjs --kvasir build/kvasir --model models/nano --gguf nano.gguf --peer FOLDER --out NAME
//        [--text FILES] [--rounds 3] [--sizes 2048,8192,32768] [--only prefill|decode] [--add NAME.json]
// FOLDER has node_modules/node-llama-cpp (3.22.1). Writes NAME.json and NAME.md. Engines take turns case by case; what
// everything else on the machine used meanwhile is in every row. --add puts the rows of an earlier run before this one's.
import {fork, spawn, execFileSync} from 'node:child_process';
import {createRequire} from 'node:module';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import {pathToFileURL} from 'node:url';

const options = {threads: '2', rounds: '3', sizes: '2048,8192,32768', interval: '512', port: '18077', text: '', decode: '128'};
for (let i = 2; i < process.argv.length; i += 2) options[process.argv[i].replace(/^--/, '')] = process.argv[i + 1];

// ---- llama.cpp, one context per way of caching -------------------------------------------------------------------

async function llamaProcess() {
  const require = createRequire(path.resolve(options.peer, 'package.json'));
  const {getLlama} = await import(pathToFileURL(require.resolve('node-llama-cpp')).href);
  const threads = +options.threads;
  const llama = await getLlama({gpu: false, build: 'never', maxThreads: threads, logLevel: 'error'});
  const model = await llama.loadModel({modelPath: options.gguf});
  let context, sequences = [], piece = Infinity;
  const handlers = {
    async open({contextSize, count, checkpoints, swaFullCache}) {
      if (context) await context.dispose();
      piece = checkpoints?.interval ?? Infinity;
      context = await model.createContext({contextSize, batchSize: 512, threads, sequences: count, swaFullCache});
      sequences = Array.from({length: count}, () => context.getSequence(checkpoints ? {checkpoints} : {}));
      return {threads: context.currentThreads, needsCheckpoints: sequences[0].needsCheckpoints};
    },
    // As a server would: keep what the prompt shares with the state, read the rest, checkpoint before the last token.
    async generate({ids, max, slot}) {
      const seq = sequences[slot], begun = performance.now(), times = [];
      await seq.adaptStateToTokens(ids.slice(0, -1), false);
      const cached = seq.nextTokenIndex;
      // Its own interval counts whole evaluations, so that the prompt is given in pieces where checkpoints are wanted inside.
      for (let at = cached; at < ids.length - 1; at += piece) {
        await seq.evaluateWithoutGeneratingNewTokens(ids.slice(at, Math.min(at + piece, ids.length - 1)));
        if (at + piece < ids.length - 1) await seq.takeCheckpoint();
      }
      await seq.takeCheckpoint();
      for await (const token of seq.evaluate(ids.slice(-1), {temperature: 0, yieldEogToken: true})) {
        times.push(performance.now() - begun);
        if (times.length >= max) break;
        void token;
      }
      return {times, cached, checkpointBytes: seq.checkpointsMemoryUsage};
    },
  };
  process.on('message', async ({id, what, args}) => {
    try {
      process.send({id, result: await handlers[what](args)});
    } catch (e) {
      process.send({id, error: String(e?.stack ?? e)});
    }
  });
  process.on('disconnect', () => process.exit(1));
  const libraries = [...new Set(fs.readFileSync('/proc/self/maps', 'utf8').split('\n').map(l => l.split('/').pop()).filter(l => /^libggml-cpu|^libllama\./.test(l)))];
  process.send({ready: true, libraries});
}

async function startLlama() {
  const child = fork(process.argv[1], ['--role', 'llama', '--peer', options.peer, '--gguf', options.gguf, '--threads', options.threads]);
  process.on('exit', () => child.kill());
  const waiting = new Map();
  let next = 0, started;
  const ready = new Promise(resolve => started = resolve);
  child.on('message', m => {
    if (m.ready) return started(m.libraries);
    const {resolve, reject} = waiting.get(m.id);
    waiting.delete(m.id);
    m.error ? reject(new Error(m.error)) : resolve(m.result);
  });
  child.on('exit', code => waiting.forEach(w => w.reject(new Error(`llama.cpp ended: ${code}`))));
  const call = (what, args) => new Promise((resolve, reject) => {
    waiting.set(next, {resolve, reject});
    child.send({id: next++, what, args});
  });
  return {pid: child.pid, libraries: await ready, call, stop: () => child.kill()};
}

// ---- kvasir serve ------------------------------------------------------------------------------------------------

async function startKvasir() {
  const cache = fs.mkdtempSync(path.join(os.tmpdir(), 'kvasir-peer-'));
  const args = ['serve', '-m', options.model, '--port', options.port, '--threads', options.threads, '--cache-dir', cache, '--draft', 'off', '--log-level', 'warning'];
  const child = spawn(options.kvasir, args, {stdio: ['ignore', 'ignore', 'inherit']});
  process.on('exit', () => { child.kill(); fs.rmSync(cache, {recursive: true, force: true}); });  // also after an error
  const base = `http://127.0.0.1:${options.port}`;
  for (let i = 0; ; ++i) {
    if (i > 200 || child.exitCode !== null) throw new Error('kvasir serve does not answer');
    if (await fetch(base + '/v1/models').then(r => r.ok, () => false)) break;
    await new Promise(r => setTimeout(r, 50));
  }
  if (child.exitCode !== null) throw new Error(`port ${options.port} is another server's`);
  async function generate({ids, max}) {
    const body = JSON.stringify({model: 'nano', prompt: ids, max_tokens: max, temperature: 0, stream: true, stream_options: {include_usage: true}});
    const begun = performance.now(), times = [];
    let usage, buffered = '';
    const response = await fetch(base + '/v1/completions', {method: 'POST', headers: {'content-type': 'application/json'}, body});
    if (!response.ok) throw new Error(await response.text());
    const decoder = new TextDecoder();
    for await (const chunk of response.body) {
      const now = performance.now() - begun;
      buffered += decoder.decode(chunk, {stream: true});
      const lines = buffered.split('\n');
      buffered = lines.pop();
      for (const line of lines) {
        if (!line.startsWith('data: {')) continue;
        const event = JSON.parse(line.slice(6));
        if (event.usage) usage = event.usage;
        if (event.choices?.[0]?.text) times.push(now);
      }
    }
    return {times, tokens: usage.completion_tokens, cached: usage.prompt_tokens_details.cached_tokens};
  }
  return {pid: child.pid, generate, args: args.join(' ').replace(cache, 'TMP'), stop: () => child.kill()};
}

// ---- measuring ---------------------------------------------------------------------------------------------------

const ticks = 100;  // USER_HZ
function cpuOf(pid) {
  const fields = fs.readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1].split(' ');
  return (+fields[11] + +fields[12]) / ticks;
}
function cpuOfMachine() {
  const f = fs.readFileSync('/proc/stat', 'utf8').split('\n')[0].split(/\s+/).slice(1).map(Number);
  return (f[0] + f[1] + f[2] + f[5] + f[6]) / ticks;
}
const median = list => { const s = [...list].sort((a, b) => a - b), m = s.length >> 1; return s.length % 2 ? s[m] : (s[m - 1] + s[m]) / 2; };

async function main() {
  const sizes = options.sizes.split(',').map(Number), rounds = +options.rounds;
  const llama = await startLlama(), kvasir = await startKvasir();
  const rows = options.add ? JSON.parse(fs.readFileSync(options.add)).rows : [];
  const ids = tokens();
  const pids = {kvasir: kvasir.pid, 'llama.cpp': llama.pid};

  async function measured(engine, what, tokensIn, work) {
    const own = cpuOf(pids[engine]), machine = cpuOfMachine(), begun = performance.now();
    const result = await work();
    const wall = (performance.now() - begun) / 1e3, ownCpu = cpuOf(pids[engine]) - own;
    const row = {engine, what, prompt_tokens: tokensIn, ...result, wall_s: round(wall), own_cpu_s: round(ownCpu), others_cpu_s: round(cpuOfMachine() - machine - ownCpu)};
    rows.push(row);
    console.error(JSON.stringify(row));
    return row;
  }
  const first = async (generate, prompt, max = 4) => {
    const r = await generate({ids: prompt, max, slot: 0});
    return {ttft_ms: round(r.times[0]), cached_tokens: r.cached, ...(r.checkpointBytes ? {checkpoint_mb: round(r.checkpointBytes / 1e6)} : {})};
  };
  const engines = {
    kvasir: {name: 'kvasir', generate: kvasir.generate, open: async () => {}},
    llama: {name: 'llama.cpp', label: '', generate: a => llama.call('generate', a), open: n => llama.call('open', {contextSize: n, count: 1})},
    dense: {name: 'llama.cpp', label: `, a checkpoint every ${options.interval}`, generate: a => llama.call('generate', a),
            open: n => llama.call('open', {contextSize: n, count: 1, checkpoints: {interval: +options.interval, max: 256}})},
  };

  for (let round = 0; round < rounds; ++round) {
    for (const size of options.only === 'decode' ? [] : sizes) {
      const prompts = promptsOf(ids, size, round);
      for (const [key, engine] of Object.entries(engines)) {
        if (key === 'dense' && size === sizes[0]) continue;  // prefill only
        await engine.open(size + 1024);
        const label = engine.label ?? '';
        await engine.generate({ids: ids.slice(700 + round, 1300 + round), max: 1, slot: 0});  // buffers and pages warm
        await measured(engine.name, 'cold' + label, size, () => first(engine.generate, prompts.cold));
        if (size === sizes[0]) continue;
        await measured(engine.name, 'repeated' + label, size, () => first(engine.generate, prompts.cold));
        await measured(engine.name, 'appended' + label, prompts.appended.length, () => first(engine.generate, prompts.appended));
        await measured(engine.name, 'branched' + label, size, () => first(engine.generate, prompts.branched));
        await measured(engine.name, 'branched there again' + label, size, () => first(engine.generate, prompts.again));
        report(rows, llama.libraries, kvasir.args, sizes);
      }
    }
    for (const streams of options.only === 'prefill' ? [] : [1, 8]) {
      const prompts = Array.from({length: streams}, (_, s) => ids.slice(5000 + s * 700 + round * 50, 5000 + s * 700 + round * 50 + 500));
      await llama.call('open', {contextSize: 1024, count: streams});
      for (const engine of [engines.kvasir, engines.llama]) {
        for (let s = 0; s < streams; ++s) await engine.generate({ids: prompts[s], max: 1, slot: s});  // reads the prompts
        await measured(engine.name, `decode, ${streams} streams`, 500, async () => {
          const all = await Promise.all(prompts.map((p, s) => engine.generate({ids: p, max: +options.decode, slot: s})));
          const begun = Math.min(...all.map(r => r.times[0])), ended = Math.max(...all.map(r => r.times.at(-1)));
          const count = all.reduce((sum, r) => sum + (r.tokens ?? r.times.length) - 1, 0);
          return {generated: count + streams, tokens_per_s: round1(count / (ended - begun) * 1e3)};
        });
      }
    }
  }
  llama.stop();
  kvasir.stop();
  process.stdout.write(report(rows, llama.libraries, kvasir.args, sizes));
}

const round = x => Math.round(x * 1000) / 1000, round1 = x => Math.round(x * 10) / 10;

// The ids of real text, by kvasir's own tokenizer (llama.cpp gives the same; both engines get ids).
function tokens() {
  const files = options.text ? options.text.split(',') : execFileSync('git', ['ls-files', 'docs', 'src/server', 'src/engine', 'src/api'], {encoding: 'utf8'}).trim().split('\n');
  const text = path.join(os.tmpdir(), `kvasir-peer-text-${process.pid}`);
  fs.writeFileSync(text, files.filter(f => /\.(md|cc|h)$/.test(f)).map(f => fs.readFileSync(f, 'utf8')).join('\n'));
  const json = execFileSync(options.kvasir, ['tokenize', '-m', options.model, '-f', text, '--json'], {maxBuffer: 1 << 28});
  fs.rmSync(text);
  return JSON.parse(json).ids;
}

// Every round and size has a beginning of its own, so that nothing is cached when it should be cold.
function promptsOf(ids, size, round) {
  const cold = [...ids.slice(300 + 17 * round, 330 + 17 * round), ...ids.slice(size / 256, size / 256 + size - 30)];
  const middle = size / 2, line = ids.slice(900, 912).map((id, i) => id === cold[middle + i] ? (id + 1) % 5000 : id);
  return {cold, appended: [...cold, ...ids.slice(2000, 2200)], branched: [...cold.slice(0, middle), ...line, ...cold.slice(middle + 12)],
          again: [...cold.slice(0, middle), ...line.slice(0, 2), ...cold.slice(middle + 2)]};
}

function report(rows, libraries, args, sizes) {
  const commit = execFileSync('git', ['rev-parse', '--short', 'HEAD'], {encoding: 'utf8'}).trim();
  const head = {date: new Date().toISOString(), commit, cpu: os.cpus()[0].model, cores: os.cpus().length, kvasir: args, gguf: path.basename(options.gguf), threads: +options.threads,
                llama_libraries: libraries, text_tokens: Math.max(...sizes)};
  fs.writeFileSync(options.out + '.json', JSON.stringify({...head, rows}, null, 1) + '\n');
  const of = (engine, what, size) => rows.filter(r => r.engine === engine && r.what === what && (size === undefined || Math.abs(r.prompt_tokens - size) <= 200));
  const cell = (list, f, digits = 0) => list.length ? `${median(list.map(f)).toFixed(digits)} (${list.map(r => f(r).toFixed(digits)).join(', ')})` : '-';
  const ratio = (a, b, f) => a.length && b.length ? (median(a.map(f)) / median(b.map(f))).toFixed(2) : '-';
  const title = `# kvasir serve beside llama.cpp, ${path.basename(options.gguf)}\n\n${head.date.slice(0, 10)}, ${head.cpu}, ${head.cores} cores, ${head.threads} thread(s) each; kvasir ${commit} \`kvasir ${args}\`; `
    + `llama.cpp in node-llama-cpp: ${libraries.join(', ')}.\n\n`;
  let md = title + '| tokens/s | kvasir serve | llama.cpp | kvasir / llama.cpp |\n|---|---|---|---|\n';
  const rate = r => r.prompt_tokens / r.ttft_ms * 1e3, ttft = r => r.ttft_ms, tps = r => r.tokens_per_s;
  for (const s of sizes) md += `| prefill of ${s} | ${cell(of('kvasir', 'cold', s), rate)} | ${cell(of('llama.cpp', 'cold', s), rate)} | ${ratio(of('kvasir', 'cold', s), of('llama.cpp', 'cold', s), rate)} |\n`;
  const perCpu = r => r.prompt_tokens / r.own_cpu_s;
  for (const s of sizes) md += `| prefill of ${s}, per CPU second of its own | ${cell(of('kvasir', 'cold', s), perCpu)} | ${cell(of('llama.cpp', 'cold', s), perCpu)} | ${ratio(of('kvasir', 'cold', s), of('llama.cpp', 'cold', s), perCpu)} |\n`;
  const tokensPerCpu = r => r.generated / r.own_cpu_s;
  for (const n of [1, 8]) md += `| decode, ${n} stream${n > 1 ? 's' : ''}, per CPU second of its own | ${cell(of('kvasir', `decode, ${n} streams`), tokensPerCpu)} | ${cell(of('llama.cpp', `decode, ${n} streams`), tokensPerCpu)} | ${ratio(of('kvasir', `decode, ${n} streams`), of('llama.cpp', `decode, ${n} streams`), tokensPerCpu)} |\n`;
  for (const n of [1, 8]) md += `| decode, ${n} stream${n > 1 ? 's' : ''}, after 500 | ${cell(of('kvasir', `decode, ${n} streams`), tps)} | ${cell(of('llama.cpp', `decode, ${n} streams`), tps)} | ${ratio(of('kvasir', `decode, ${n} streams`), of('llama.cpp', `decode, ${n} streams`), tps)} |\n`;
  const dense = `, a checkpoint every ${options.interval}`;
  md += `\n| time to first token, ms | kvasir serve | llama.cpp | llama.cpp${dense} |\n|---|---|---|---|\n`;
  for (const s of sizes.slice(1)) for (const w of ['cold', 'repeated', 'appended', 'branched', 'branched there again'])
    md += `| ${w}, ${s} | ${cell(of('kvasir', w, s), ttft)} | ${cell(of('llama.cpp', w, s), ttft)} | ${cell(of('llama.cpp', w + dense, s), ttft)} |\n`;
  md += `\n| tokens taken from the cache | kvasir serve | llama.cpp | llama.cpp${dense} |\n|---|---|---|---|\n`;
  const cached = r => r.cached_tokens;
  for (const s of sizes.slice(1)) for (const w of ['repeated', 'appended', 'branched', 'branched there again'])
    md += `| ${w}, ${s} | ${cell(of('kvasir', w, s), cached)} | ${cell(of('llama.cpp', w, s), cached)} | ${cell(of('llama.cpp', w + dense, s), cached)} |\n`;
  const share = name => { const l = rows.filter(r => r.engine === name); return (l.reduce((a, r) => a + r.others_cpu_s, 0) / l.reduce((a, r) => a + r.wall_s, 0)).toFixed(2); };
  md += `\nMedians, every run in brackets. Others on the machine used ${share('kvasir')} cores while kvasir ran and ${share('llama.cpp')} while llama.cpp ran.\n`;
  fs.writeFileSync(options.out + '.md', md);
  return md;
}

for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => process.exit(1));
if (process.send && options.role === 'llama') await llamaProcess();
else {
  await main();
  process.exit(0);
}
