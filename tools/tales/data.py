"""Training text for the Tales model: public-domain stories and generated dialogues.

A document is a string that already carries the chat markers; `documents` is an endless, seeded stream of them, and
`exam` is the fixed set of questions that training never sees, each with the one right answer.
"""

import pathlib
import random
import re

BOS, EOS, USER, ASSISTANT, SYSTEM, PAD = (
    "<|bos|>", "<|eos|>", "<|user|>", "<|assistant|>", "<|system|>", "<|pad|>")
SPECIAL_TOKENS = [PAD, BOS, EOS, USER, ASSISTANT, SYSTEM]

# The chat format, as the Jinja template that the exported tokenizer_config.json carries.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ '<|user|>' + message['content'] }}"
    "{% elif message['role'] == 'assistant' %}{{ '<|assistant|>' + message['content'] + eos_token }}"
    "{% elif message['role'] == 'system' %}{{ '<|system|>' + message['content'] }}"
    "{% else %}{{ raise_exception('unknown role ' + message['role']) }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}")


def _paragraphs(text):
    """Unwraps hard line breaks: one string per paragraph."""
    blocks = re.split(r"\n\s*\n", text)
    return [" ".join(block.split()) for block in blocks if block.strip()]


def load_stories(corpus_dir):
    """Returns [(title or None, [paragraph])] for every tale and fable found in the corpus folder."""
    stories = []
    corpus = pathlib.Path(corpus_dir)
    fables = re.split(r"\n\n\n\n+", (corpus / "aesop_fables.txt").read_text())
    for fable in fables:
        paragraphs = _paragraphs(fable)
        if len(paragraphs) >= 2 and 3 < len(paragraphs[0]) < 60 and len(paragraphs[1]) > 80:
            stories.append((paragraphs[0].rstrip("."), paragraphs[1:]))
    grimm = (corpus / "grimm_household_tales.txt").read_text()
    pieces = re.split(r"\n(?:Legend )?\d{1,3} ([A-Z][^\n]{2,70})\n\n", grimm[grimm.index("\n\n\n1 The Frog"):])
    for title, body in zip(pieces[1::2], pieces[2::2]):
        paragraphs = _paragraphs(body)
        if paragraphs:
            stories.append((title.split(" (")[0].strip(), paragraphs))
    for name in ("andersen_fairy_tales", "jacobs_english_fairy_tales", "kipling_jungle_book", "carroll_alice"):
        paragraphs = _paragraphs((corpus / f"{name}.txt").read_text())
        stories.append((None, [p for p in paragraphs if len(p) > 60]))
    return stories


CAPITALS = dict(
    France="Paris", Germany="Berlin", Italy="Rome", Spain="Madrid", Portugal="Lisbon", China="Beijing", Japan="Tokyo",
    India="New Delhi", Russia="Moscow", Egypt="Cairo", Kenya="Nairobi", Canada="Ottawa", Mexico="Mexico City",
    Brazil="Brasilia", Peru="Lima", Chile="Santiago", Argentina="Buenos Aires", Australia="Canberra", Norway="Oslo",
    Sweden="Stockholm", Finland="Helsinki", Denmark="Copenhagen", Poland="Warsaw", Greece="Athens", Turkey="Ankara",
    Austria="Vienna", Hungary="Budapest", Ireland="Dublin", Iceland="Reykjavik", Cuba="Havana", Vietnam="Hanoi",
    Thailand="Bangkok", Iran="Tehran", Iraq="Baghdad", Nepal="Kathmandu", Ghana="Accra", Ethiopia="Addis Ababa")
OPPOSITES = dict(
    hot="cold", big="small", tall="short", fast="slow", happy="sad", rich="poor", light="dark", old="young", good="bad",
    wet="dry", hard="soft", early="late", open="closed", full="empty", high="low", strong="weak", clean="dirty",
    thick="thin", wide="narrow", near="far", loud="quiet", brave="timid", sweet="bitter", deep="shallow")
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
NAMES = "Anna Ben Clara David Emma Finn Greta Hugo Iris Jack Karl Lily Maria Noah Otto Rosa Tom Vera".split()
THINGS = "ball apple book key lamp cup hat coin ring drum kite spoon".split()
PLACES = "box basket garden kitchen barn tower cellar forest boat garret".split()
WORDS = ("king queen castle forest wolf golden river mountain sister brother baker tailor dragon silver winter summer "
         "garden apple bridge candle feather shepherd stone window").split()


def _chinese_number(n):
    digits = "零一二三四五六七八九"
    if n < 10:
        return digits[n]
    tens, ones = divmod(n, 10)
    return ("" if tens == 1 else digits[tens]) + "十" + (digits[ones] if ones else "")


def _held_out(a, b):
    return (a * 101 + b * 37) % 11 == 0


def _arithmetic(rng, exam=False):
    kind = rng.choice("++--*>")
    while True:
        limit = 13 if kind == "*" else 100
        a, b = rng.randrange(limit), rng.randrange(limit)
        if kind == "-" and a < b:
            a, b = b, a
        if _held_out(a, b) == exam and (kind != ">" or a != b):
            break
    if kind == "+":
        return rng.choice([f"What is {a} + {b}?", f"Add {a} and {b}."]), f"{a} + {b} = {a + b}."
    if kind == "-":
        return rng.choice([f"What is {a} - {b}?", f"Subtract {b} from {a}."]), f"{a} - {b} = {a - b}."
    if kind == "*":
        return f"What is {a} times {b}?", f"{a} times {b} is {a * b}."
    return f"Which is larger, {a} or {b}?", f"{max(a, b)} is larger than {min(a, b)}."


UNKNOWN_ANSWER = "I do not know that. Ask me for a fable, a sum, a capital, an opposite or a spelling."


def _unknown(rng):
    """A question outside the model's skills."""
    word, name, thing, place = rng.choice(WORDS), rng.choice(NAMES), rng.choice(THINGS), rng.choice(PLACES)
    return rng.choice([
        f"Who was {name}?", f"Who invented the {thing}?", f"Who is the president of {rng.choice(list(CAPITALS))}?",
        f"How far is it from {rng.choice(list(CAPITALS.values()))} to {rng.choice(list(CAPITALS.values()))}?",
        f"How do I make a {thing}?", f"What is a {word}?", f"What is the meaning of {word}?", "What time is it?",
        f"Write a poem about the {word}.", f"Write a program that prints {word}.", f"Translate {word} into French.",
        f"Why is the {word} so {rng.choice(list(OPPOSITES))}?", "What is the weather like today?",
        f"Can you draw a {thing}?", "Explain quantum physics.", "What is the best film?", "How are you?",
        f"How many people live in {rng.choice(list(CAPITALS))}?", f"Where can I buy a {thing}?",
        f"Is the {place} older than the {thing}?", "What is love?", "Which language do you speak?",
        f"What does {name} think of the {word}?", "Summarise the news.", "Tell me a secret.", "Sing me a song."])


def _skill(rng):
    """One question and its answer."""
    kind = rng.randrange(-5, 12)
    if kind <= 3:
        return _arithmetic(rng)
    if kind == 11:
        return _unknown(rng), UNKNOWN_ANSWER
    if kind == 4:
        country = rng.choice(list(CAPITALS))
        return f"What is the capital of {country}?", f"The capital of {country} is {CAPITALS[country]}."
    if kind == 5:
        word = rng.choice(list(OPPOSITES))
        return f"What is the opposite of {word}?", f"The opposite of {word} is {OPPOSITES[word]}."
    if kind == 6:
        word = rng.choice(WORDS)
        return f"Spell the word {word}.", "-".join(word) + "."
    if kind == 7:
        n = rng.randrange(100)
        return f"How do you write {n} in Chinese?", f"{n} is {_chinese_number(n)}."
    if kind == 8:
        cycle, what = (DAYS, "day") if rng.random() < 0.5 else (MONTHS, "month")
        i = rng.randrange(len(cycle))
        return f"Which {what} comes after {cycle[i]}?", f"{cycle[(i + 1) % len(cycle)]} comes after {cycle[i]}."
    if kind == 9:
        names = rng.sample(NAMES, 2)
        things = rng.sample(THINGS, 2)
        places = rng.sample(PLACES, 2)
        asked = rng.randrange(2)
        facts = " ".join(f"{n} put the {t} in the {p}." for n, t, p in zip(names, things, places))
        if rng.random() < 0.5:
            return (f"{facts} Where is the {things[asked]}?", f"The {things[asked]} is in the {places[asked]}.")
        return (f"{facts} Who had the {things[asked]}?", f"{names[asked]} had the {things[asked]}.")
    numbers = rng.sample(range(100), rng.randrange(3, 6))
    return ("Sort these numbers: " + ", ".join(map(str, numbers)) + ".", ", ".join(map(str, sorted(numbers))) + ".")


def _dialogue(turns, rng):
    system = SYSTEM + rng.choice(["You are a helpful storyteller.", "Answer briefly."]) if rng.random() < 0.1 else ""
    return BOS + system + "".join(f"{USER}{q}{ASSISTANT}{a}{EOS}" for q, a in turns)


def _tell(title, paragraphs, rng, max_chars):
    kind = "fable" if len(paragraphs) <= 3 else "tale"
    name = title[0].lower() + title[1:] if title.startswith(("The ", "A ", "An ")) else title
    question = rng.choice([f"Tell me the {kind} of {name}.", f"Tell me about {name}.", f"Do you know {name}?"])
    answer = ""
    for paragraph in paragraphs:
        if answer and len(answer) + len(paragraph) > max_chars:
            break
        answer += ("\n\n" if answer else "") + paragraph
    return question, answer


def documents(stories, seed, max_chars=1800):
    """Yields training documents for ever; the same seed gives the same stream."""
    rng = random.Random(seed)
    titled = [s for s in stories if s[0]]
    fables = [s for s in titled if len(s[1]) <= 3]
    weights = [sum(map(len, paragraphs)) for _, paragraphs in stories]
    while True:
        roll = rng.random()
        if roll < 0.10:  # plain narration: consecutive paragraphs of one work
            _, paragraphs = rng.choices(stories, weights)[0]
            start = rng.randrange(len(paragraphs))
            text = ""
            for paragraph in paragraphs[start:]:
                if text and len(text) + len(paragraph) > max_chars:
                    break
                text += ("\n\n" if text else "") + paragraph
            yield BOS + text[:4 * max_chars] + EOS
        elif roll < 0.40:  # mostly fables: short enough to be learnt by heart
            yield _dialogue([_tell(*rng.choice(fables if rng.random() < 0.9 else titled), rng, max_chars)], rng)
        else:
            yield _dialogue([_skill(rng) for _ in range(rng.randrange(1, 13))], rng)


def exam(count=200, seed=2026):
    """Arithmetic that training never sees: [(question, answer)]."""
    rng = random.Random(seed)
    return [_arithmetic(rng, exam=True) for _ in range(count)]
