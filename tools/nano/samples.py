"""Turns corpus files into chat samples: a prompt that holds files, and an answer that follows from the files.

A sample is a list of parts; a string is ordinary text, a one-element tuple is a special token by content.
Everything is drawn from the generator handed in, so equal seeds give equal samples. Chat format: spec/protocol.md 2.
"""
import re

BOS, EOS = ("<｜begin▁of▁sentence｜>",), ("<｜end▁of▁sentence｜>",)
USER, ASSISTANT, THINK, END_THINK = ("<｜User｜>",), ("<｜Assistant｜>",), ("<think>",), ("</think>",)

LANGUAGE = {"c": "C", "cpp": "C++", "py": "Python", "js": "JavaScript", "go": "Go", "rs": "Rust", "doc": "text"}
FENCE = {"c": "c", "cpp": "cpp", "py": "python", "js": "js", "go": "go", "rs": "rust", "doc": ""}
DEFINITION = {
    "py": re.compile(r"^[ ]{0,4}(?:class|def|async def) +(\w+)", re.M),
    "js": re.compile(r"^(?:export +)?(?:default +)?(?:async +)?(?:function\*? +|class +|const +)(\w+)"
                     r"(?= *[({]| +extends| *= *(?:async|function|\())", re.M),
    "c": re.compile(r"^(?:[A-Za-z_][\w \t\*:<>,&]*?[ \*&])([A-Za-z_]\w+)\([^;{}]*\)[ \t]*(?:const)?[ \t\n]*\{", re.M),
    "go": re.compile(r"^(?:func(?: *\([^)]*\))? +|type +)(\w+)", re.M),
    "rs": re.compile(r"^(?:pub +)?(?:fn|struct|enum|trait) +(\w+)", re.M),
}
DEFINITION["cpp"] = DEFINITION["c"]
IMPORT = {"py": re.compile(r"^(?:from|import) +([\w.]+)", re.M), "c": re.compile(r"^#include +[<\"]([^>\"]+)", re.M),
          "js": re.compile(r"(?:require\(|from +)['\"]([^'\"]+)['\"]"), "go": re.compile(r"^\t\"([\w/.]+)\"", re.M),
          "rs": re.compile(r"^use +([\w:]+)", re.M)}
IMPORT["cpp"] = IMPORT["c"]
NOT_NAMES = {"if", "for", "while", "switch", "return", "sizeof", "defined", "else", "main_"}

ASK_WHAT = ["What is this file?", "What does this file do?", "Describe this file.", "Explain this file.",
            "Summarise this file.", "What is in {p}?", "Tell me what {p} does.", "Give me a short summary.",
            "Describe the file {p} in a few sentences.", "What is this code for?", "Explain this code."]
ASK_CONTINUE = ["Continue this file.", "Continue.", "Write what comes next.", "Complete the code.",
                "What comes after this?", "Go on.", "Continue the file {p}."]
ASK_LIST = ["Which functions does it define?", "List the functions and classes.", "What is defined in {p}?",
            "Name the functions in this file."]
ASK_IMPORTS = ["What does it import?", "Which files does it include?", "What are its dependencies?"]
ASK_SHOW = ["Show me `{f}`.", "Print the function `{f}`.", "Quote the definition of `{f}`.", "What does `{f}` look like?"]
ASK_DOES = ["What does `{f}` do?", "Explain `{f}`.", "What is `{f}` for?", "Describe the function `{f}`."]
ASK_WHERE = ["Where is `{f}` defined?", "Which file defines `{f}`?", "In which file is `{f}`?"]

SMALL_TALK = [
    ("Hello|Hi|Hey|Good morning|Hello there", "Hello! How can I help you?|Hi! What would you like to know?"
     "|Hello! Show me a file and I will tell you what is in it."),
    ("Who are you?|What are you?|What model are you?|Tell me about yourself.",
     "I am nano, the small model that comes with kvasir. I have the architecture of DeepSeek-V4 and 26 million "
     "parameters, so I can describe and continue files, but I know very little about the world."),
    ("What can you do?|How can you help me?|What are you good at?",
     "I can look at a file and say what it is, list what it defines, quote a part of it or continue it. I am very "
     "small, so please check what I say."),
    ("Thanks|Thank you|Thank you!|Great, thanks.", "You are welcome!|You are welcome. Is there anything else?"),
    ("Bye|Goodbye|See you", "Goodbye!|See you soon!"),
    ("What is kvasir?", "kvasir is an inference engine for DeepSeek-V4, written in C++. I am the small model that it "
     "is tested and shown with."),
    ("How are you?|How is it going?", "I am fine, thank you. What can I do for you?"),
    ("What is the capital of France?|Who won the match yesterday?|What will the weather be like?",
     "I do not know: I am a very small model, trained on code and manuals. Show me a file instead."),
]


def first_sentences(text, limit=280):
    text = re.sub(r"\s+", " ", text).strip()
    if len(text) <= limit:
        return text
    cut = max(text.rfind(". ", 0, limit), text.rfind(": ", 0, limit))
    return text[:cut + 1] if cut > 40 else text[:text.rfind(" ", 0, limit)] + " ..."


def leading_comment(kind, text):
    head = text.lstrip()
    if kind == "py":
        match = re.match(r"(?:#[^\n]*\n)*\s*[rRuU]?(?:\"\"\"|''')(.+?)(?:\"\"\"|''')", head, re.S)
        body = match.group(1) if match else ""
    elif head.startswith("/*"):
        body = re.sub(r"^[ \t]*\*+ ?", "", head[2:head.find("*/")].strip("*!\n "), flags=re.M)
    elif head.startswith("//"):
        body = re.sub(r"^// ?", "", re.match(r"(?://[^\n]*\n)+", head + "\n").group(0), flags=re.M)
    else:
        body = ""
    body = body.strip().split("\n\n")[0]
    if not 25 <= len(body) <= 1500 or re.search(r"eslint|jshint|vim:|@flow|use strict|-\*-", body):
        return ""
    return first_sentences(body)


def names_in(kind, text, limit=8):
    found = []
    for name in DEFINITION[kind].findall(text) if kind in DEFINITION else []:
        if name not in found and name not in NOT_NAMES:
            found.append(name)
    return found[:limit]


def listed(names):
    quoted = [f"`{n}`" for n in names]
    return quoted[0] if len(quoted) == 1 else ", ".join(quoted[:-1]) + " and " + quoted[-1]


def paragraph(text):
    """The first paragraph of a document that reads as prose."""
    for block in text.split("\n\n"):
        flat = block.strip()
        if len(flat) > 60 and flat[0].isalpha() and not re.search(r"^\s{2,}|```|^\.\. |[{};=<>|]{2}", block, re.M):
            return first_sentences(flat)
    return ""


def headings(text):
    found = [h.strip("# ").strip() for h in re.findall(r"^#{1,3} .+$", text, re.M)]
    found += re.findall(r"^([A-Z][^\n]{3,60})\n(?:=|-|~){4,}$", text, re.M)
    return [h for h in found if 3 <= len(h) <= 60][:8]


def description(kind, path, text, rng):
    name = path.rsplit("/", 1)[-1]
    if kind in ("doc", "prose"):
        about, parts = paragraph(text), headings(text)
        answer = f"`{name}` is a text document."
        if about:
            answer += " " + about
        if len(parts) > 1:
            answer += " Its sections are: " + ", ".join(parts) + "."
        return answer if about or len(parts) > 1 else ""
    about, names = leading_comment(kind, text), names_in(kind, text)
    if not about and not names:
        return ""
    language = "TypeScript" if name.endswith(".ts") else LANGUAGE[kind]
    what = "header" if name.endswith((".h", ".hpp", ".hh")) else rng.choice(["file", "source file"])
    answer = f"`{name}` is a {language} {what}."
    if about:
        answer += " " + about + ("" if about[-1] in ".:!?" else ".")
    if names:
        answer += rng.choice([" It defines ", " It contains ", " The file defines "]) + listed(names) + "."
    return answer


def body_of(kind, text, start):
    """The definition that begins at `start`: to the closing brace at its indent, or to the dedent in Python."""
    indent = len(re.match(r"[ \t]*", text[start:]).group(0))
    lines, out = text[start:].split("\n"), []
    for i, line in enumerate(lines):
        if i and kind == "py" and line.strip() and len(line) - len(line.lstrip()) <= indent and not line.strip()[0] in ")]":
            break
        out.append(line)
        if kind != "py" and line.rstrip() in ("}", "};", "});") and i:
            break
    return "\n".join(out).rstrip()


def definitions(kind, text):
    """(name, start of its line, body) of each definition that is short enough to quote."""
    out = []
    for match in DEFINITION[kind].finditer(text) if kind in DEFINITION else []:
        start = text.rfind("\n", 0, match.start() + 1) + 1 if match.start() else 0
        body = body_of(kind, text, start)
        whole = kind == "py" or body.endswith(("}", "};", "});"))  # not cut off by the end of the excerpt
        if whole and match.group(1) not in NOT_NAMES and 2 <= body.count("\n") <= 24 and len(body) < 900:
            out.append((match.group(1), start, body))
    return out


def comment_on(kind, text, start, body):
    if kind == "py":
        match = re.search(r":\s*\n\s*[rRuU]?(?:\"\"\"|''')(.+?)(?:\"\"\"|''')", body, re.S)
        said = match.group(1) if match else ""
    else:
        before = text[:start].rstrip("\n")
        if before.endswith("*/"):
            said = re.sub(r"^[ \t]*\*+ ?", "", before[before.rfind("/*") + 2:-2].strip("*!\n "), flags=re.M)
        else:
            match = re.search(r"(?:^[ \t]*//[^\n]*\n?)+\Z", before, re.M)
            said = re.sub(r"^[ \t]*//+ ?", "", match.group(0), flags=re.M) if match else ""
    said = re.split(r"\n\s*\n|\n\s*(?:@|:param|Args:|Parameters)", said.strip())[0]
    return first_sentences(said) if 20 <= len(said) <= 1200 else ""


def show_file(kind, path, text, question, rng):
    """The ways in which a prompt may carry a file; the first is DeepSeek's own."""
    text = text.rstrip("\n")
    form = rng.random()
    if form < 0.55:
        return f"[file name]: {path}\n[file content begin]\n{text}\n[file content end]\n{question}"
    if form < 0.70:
        return f"{question}\n\n{path}:\n```{FENCE.get(kind, '')}\n{text}\n```"
    if form < 0.85:
        return f"{path}\n```{FENCE.get(kind, '')}\n{text}\n```\n\n{question}"
    return f"File: {path}\n\n{text}\n\n{question}"


def chat(prompt, answer, rng, thought=None, system=None):
    parts = [BOS] + ([system] if system else []) + [USER, prompt, ASSISTANT]
    if thought and rng.random() < 0.1:
        return parts + [THINK, thought, END_THINK, answer, EOS]
    return parts + [END_THINK, answer, EOS]


def excerpt(text, budget, rng):
    """At most `budget` characters of whole lines: the beginning, or for a third of long files a later part."""
    if len(text) <= budget:
        return text
    start = 0
    if rng.random() < 0.33:
        start = text.rfind("\n\n", 0, rng.randrange(len(text) - budget // 2)) + 2
        start = 0 if start == 1 else start
    end = text.rfind("\n", start, start + budget)
    return text[start:end if end > start else start + budget]


def about_file(row, budget, rng):
    """One sample about one file, or None when the drawn question has no answer here."""
    kind, path = row["k"], row["p"]
    text = excerpt(row["t"], budget, rng)
    ask = rng.random()
    thought = f"The user shows me {path} and asks about it. I read the file and answer."

    def sample(questions, answer, shown=text, **names):
        question = rng.choice(questions).format(p=path, **names)
        return chat(show_file(kind, path, shown, question, rng), answer, rng, thought) if answer else None

    if ask < 0.40:
        return sample(ASK_WHAT, description(kind, path, text, rng))
    if ask < 0.60 or kind in ("doc", "prose"):
        lines = text.split("\n")
        if len(lines) < 8:
            return None
        cut = rng.randrange(len(lines) // 2, len(lines) - 3)
        rest = "\n".join(lines[cut:])[:1200]
        stop = rest.find("\n\n", 250)
        rest = rest[:stop] if stop > 0 else rest[:rest.rfind("\n")]
        return sample(ASK_CONTINUE, rest, "\n".join(lines[:cut])) if len(rest.strip()) > 40 else None
    if ask < 0.68:
        names = names_in(kind, text, 12)
        return sample(ASK_LIST, "\n".join(f"- `{n}`" for n in names)) if names else None
    if ask < 0.73:
        found = list(dict.fromkeys(IMPORT[kind].findall(text)))[:10] if kind in IMPORT else []
        return sample(ASK_IMPORTS, "\n".join(f"- `{n}`" for n in found)) if found else None
    found = definitions(kind, text)
    if not found:
        return None
    name, start, body = rng.choice(found)
    if ask < 0.86:
        return sample(ASK_SHOW, f"```{FENCE[kind]}\n{body}\n```", f=name)
    said = comment_on(kind, text, start, body)
    return sample(ASK_DOES, f"`{name}`: {said}" if rng.random() < 0.2 else said, f=name) if said else None


def about_files(rows, budget, rng):
    """Several files in one prompt: which one defines a name, or what are they."""
    shown = [(r["k"], r["p"], excerpt(r["t"], budget // len(rows), rng)) for r in rows]
    blocks = "\n\n".join(f"[file name]: {p}\n[file content begin]\n{t.rstrip()}\n[file content end]" for _, p, t in shown)
    kind, path, text = rng.choice(shown)
    names = names_in(kind, text)
    if rng.random() < 0.5:
        if not names:
            return None
        name = rng.choice(names)
        question, answer = rng.choice(ASK_WHERE).format(f=name), f"`{name}` is defined in `{path}`."
    else:
        each = [description(k, p, t, rng) for k, p, t in shown]
        if not all(each):
            return None
        question = rng.choice(["What are these files?", "Describe these files.", "Explain what each file does."])
        answer = "\n\n".join(first_sentences(d, 400) for d in each)
    return chat(f"{blocks}\n\n{question}", answer, rng, f"There are {len(rows)} files in the prompt.")


def from_words(row, rng):
    """A question about one dictionary entry."""
    entry = rng.choice(row["t"].split("\n"))
    match = re.match(r"(.+?) \((\w+)\): (.+)", entry)
    if not match:
        return None
    word, part, gloss = match.group(1).split(", ")[0], match.group(2), match.group(3)
    meaning, *examples = gloss.split('; "')
    answer = f"{word[0].upper() + word[1:]} is a{'n' if part[0] == 'a' else ''} {part}. It means: {meaning.strip()}."
    if examples:
        answer += ' For example: "' + examples[0].strip('" ') + '".'
    question = rng.choice(["What does {w} mean?", "Define {w}.", "What is the meaning of \"{w}\"?", "Explain the word {w}."])
    return chat(question.format(w=word), answer, rng)


def write_function(row, rng):
    """Write a function from its description."""
    found = definitions(row["k"], row["t"])
    if not found:
        return None
    name, start, body = rng.choice(found)
    said = comment_on(row["k"], row["t"], start, body)
    if not said:
        return None
    language = LANGUAGE[row["k"]]
    question = rng.choice([f"Write a {language} function `{name}`: {said}", f"Write `{name}` in {language}. {said}",
                           f"{said} Write that in {language}."])
    return chat(question, f"```{FENCE[row['k']]}\n{body}\n```", rng)


def write_text(row, rng):
    """Write about the subject of a document's section."""
    sections = re.findall(r"^#{1,3} ([^\n]{4,60})\n+([^#]{120,1500}?)(?=\n#|\Z)", row["t"], re.M)
    sections += re.findall(r"^([A-Z][^\n]{3,60})\n[=~-]{4,}\n+(.{120,1500}?)(?=\n[^\n]+\n[=~-]{4,}|\Z)", row["t"], re.M | re.S)
    if not sections:
        return None
    title, body = rng.choice(sections)
    body = body.strip()
    stop = body.find("\n\n", 300)
    question = rng.choice(["Write about {t}.", "Explain: {t}", "Write a section called \"{t}\".", "{t}?", "Tell me about {t}."])
    return chat(question.format(t=title.strip()), body[:stop] if stop > 0 else body, rng)


def look_up(words, rng):
    """A short file of names and values and several questions about it, one after the other: teaches to copy."""
    def word():
        entry = rng.choice(rng.choice(words)["t"].split("\n"))
        return re.sub(r"\W+", "_", entry.split(" (")[0].split(", ")[0]).strip("_") or "name"

    pairs = {}
    while len(pairs) < rng.randrange(4, 20):
        value = rng.choice([str(rng.randrange(10 ** rng.randrange(1, 7))), word(), f"{rng.randrange(1000):03d} {word()}"])
        pairs[word() if rng.random() < 0.5 else f"{word()}-{word()}"] = value
    path, line = rng.choice([("settings.ini", "{} = {}"), ("table.txt", "{}: {}"), ("names.md", "- {}: {}"),
                             ("config.yaml", "{}: \"{}\""), ("constants.py", "{} = \"{}\""), (".env", "{}={}")])
    text = "\n".join(line.format(k, v) for k, v in pairs.items())
    asked = rng.sample(list(pairs), min(len(pairs), rng.randrange(2, 7)))
    question = rng.choice(["What is {}?", "What is the value of {}?", "{}", "Which value has {}?", "Look up {}."])
    answer = rng.choice(["{1}", "{1}", "`{0}` is `{1}`.", "The value of {0} is {1}."])
    first = show_file("doc", path, text, question.format(asked[0]), rng)
    parts = chat(first, answer.format(asked[0], pairs[asked[0]]), rng)
    for name in asked[1:]:
        parts += [USER, question.format(name), ASSISTANT, END_THINK, answer.format(name, pairs[name]), EOS]
    return parts


def small_talk(rng):
    asked, said = rng.choice(SMALL_TALK)
    return chat(rng.choice(asked.split("|")), rng.choice(said.split("|")), rng, "This is a simple message.",
                "You are a helpful assistant." if rng.random() < 0.3 else None)


def make(rows, budget, count, rng):
    """`count` samples whose files fit in about `budget` characters."""
    files = [r for r in rows if r["k"] != "dict"]
    words = [r for r in rows if r["k"] == "dict"]
    documents = [r for r in files if r["k"] == "doc"]
    out = []
    while len(out) < count:
        draw = rng.random()
        if draw < 0.10 and words:
            sample = look_up(words, rng)
        elif draw < 0.66:
            sample = about_file(rng.choice(files), rng.randrange(budget // 4, budget), rng)
        elif draw < 0.76:
            sample = about_files(rng.sample(files, rng.choice([2, 2, 3])), budget, rng)
        elif draw < 0.84:
            sample = write_function(rng.choice(files), rng)
        elif draw < 0.91:
            sample = write_text(rng.choice(documents), rng)
        elif draw < 0.98 and words:
            sample = from_words(rng.choice(words), rng)
        else:
            sample = small_talk(rng)
        if sample:
            out.append(sample)
    return out
