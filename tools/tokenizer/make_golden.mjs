// Writes tests/golden/tokenizer/hf_ids.json and hf_classes.json: what Hugging Face tokenizers itself answers.
//
//   tar -xJf tests/golden/tokenizer/v4.tar.xz -C /tmp && npm install --no-save --prefix /tmp/hf tokenizers@0.23.2
//   node tools/tokenizer/make_golden.mjs /tmp/hf/node_modules/tokenizers /tmp/tokenizer.json tests/golden/tokenizer
//
// With files after that, it compares instead: FILE (UTF-8 text) must give the ids in FILE.ids, one a line.
// Made once; node and the package are not used by the build or the tests.
import fs from 'node:fs';
import {createRequire} from 'node:module';
import path from 'node:path';

const [library, tokenizerFile, folder, ...files] = process.argv.slice(2);
const {Tokenizer} = createRequire(import.meta.url)(path.resolve(library));
const {version} = JSON.parse(fs.readFileSync(path.join(library, 'package.json')));
const tokenizer = Tokenizer.fromFile(tokenizerFile);
const encode = async (text) => (await tokenizer.encode(text, null, {addSpecialTokens: false})).getIds();

async function compare(file) {
  const ids = await encode(fs.readFileSync(file, 'utf8'));
  const ours = fs.readFileSync(file + '.ids', 'utf8').trimEnd().split('\n').map(Number);
  const differ = ids.length !== ours.length || ids.some((id, i) => id !== ours[i]);
  console.log(`${file}: ${ids.length} ids, ${differ ? 'DIFFERENT' : 'equal'}`);
}

// A small generator of its own, so that the file can be made again.
let state = 20261121;
const random = (n) => {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return Math.floor((state / 2 ** 32) * n);
};

// Characters at which the splits' conditions turn, and strings that the added tokens and merges know.
const POINTS = [...'abAZ09 \t\n\r\'.,!;:<>｜▁_-+$€’…—。，「々ー・゛ｱ漢字中文한글ñéßǅʰ٣١½Ⅻ〇'].concat([
  0, 7, 0x1f, 0x7f, 0x85, 0xa0, 0xad, 0x301, 0x334, 0x378, 0x5d0, 0x93e, 0x940, 0x1680, 0x180e, 0x200b, 0x200d,
  0x2028, 0x3000, 0x3040, 0x3097, 0x3099, 0x309b, 0x30a0, 0x30fb, 0x4e00, 0x9fa5, 0x9fa6, 0xd7a3, 0xfeff,
  0x1d400, 0x1f44d, 0x1f3fd, 0x1f468, 0x20000, 0xe0041, 0x10ffff].map((c) => String.fromCodePoint(c)));
const WORDS = ['<think>', '</think>', '｜DSML｜', '<dsml:', '<｜User｜>', '<|EOT|>', '   ', '\n\n', '\r\n', 'hello',
  'World', 'don\'t', 'http://', '<｜', '｜>', '1234567', 'import numpy as np'];

async function writeIds() {
  const cases = [];
  for (let i = 0; i < 600; ++i) {
    let text = '';
    for (let n = 1 + random(16); n > 0; --n) text += random(5) ? POINTS[random(POINTS.length)] : WORDS[random(WORDS.length)];
    cases.push({text, ids: await encode(text)});
  }
  fs.writeFileSync(path.join(folder, 'hf_ids.json'),
                   `{"source":"tokenizers ${version}","cases":[\n${cases.map((c) => JSON.stringify(c)).join(',\n')}\n]}\n`);
}

function writeClasses() {
  let all = '';
  for (let c = 0; c < 0x110000; ++c) if (c < 0xd800 || c > 0xdfff) all += String.fromCodePoint(c);
  const lines = [];
  for (const pattern of ['\\p{L}', '\\p{M}', '\\p{N}', '\\p{P}', '\\p{S}', '\\s', '[一-龥぀-ゟ゠-ヿ]']) {
    const splitter = Tokenizer.fromString(JSON.stringify({
      version: '1.0', truncation: null, padding: null, added_tokens: [], normalizer: null, post_processor: null,
      decoder: null, model: {type: 'WordLevel', vocab: {a: 0}, unk_token: 'a'},
      pre_tokenizer: {type: 'Split', pattern: {Regex: pattern + '+'}, behavior: 'Isolated', invert: false}}));
    // U+0000 has none of the classes, so the odd pieces are the runs that match. Surrogates are in none.
    const runs = splitter.getPreTokenizer().preTokenizeString(all).filter((_, i) => i % 2).map(([run]) => {
      const points = [...run];
      return [points[0].codePointAt(0), points.at(-1).codePointAt(0)];
    });
    lines.push(`${JSON.stringify(pattern)}:${JSON.stringify(runs)}`);
  }
  fs.writeFileSync(path.join(folder, 'hf_classes.json'), `{"source":"tokenizers ${version}",\n${lines.join(',\n')}\n}\n`);
}

if (files.length > 0) {
  for (const file of files) await compare(file);
} else {
  await writeIds();
  writeClasses();
}
