"""The demonstration model's only source of text: a probabilistic grammar in French and English.

It reads text/*.en and text/*.fr and yields documents without end, the same ones for the same seed.
A document is a string in which the control tokens are spelt out (<|im_start|>, <|im_end|>).

Templates:  [x|y|z]    a choice; in answers and stories the first is the likeliest, in questions all are equal
            {slot}     filled once for a document
            {h:x/y}    x if the hero is a man, y if a woman; {f:..} the friend, {o:..} the object's gender
            ? at the start of a story's line: told half of the time

    python3 grammar.py SEED COUNT [rich]      prints COUNT documents
"""
import os
import random
import re
import sys

import variety

HERE = os.path.dirname(os.path.abspath(__file__))
START, END = "<|im_start|>", "<|im_end|>"
LANGS = ("en", "fr")

MEN = "Paul Marc Hugo Victor Leo Samuel Martin Bruno Karim David Tom Simon Jules Malik Felix Robin Gabriel Peter".split()
WOMEN = "Marie Clara Lucie Sofia Nora Julie Rosa Camille Fatou Lina Jeanne Martha Salma Nina Laura Denise Chloé Vera".split()
BEES = "Maya Zoé Lila Perle Mila Flora Luna Bella Ruby Suzie Zaza Tilda Nelly Pia".split()
TOWNS = "Lyon Nantes Lille Rennes Bristol Leeds Grenoble Quimper Bath Dijon Toulon Cork Brest Metz".split()
COUNTRIES = {
    "en": "France Japan Peru Kenya Norway Brazil Mongolia Chile Ghana Italy Spain China India Egypt Mexico Canada "
          "Poland Greece Iceland Nepal Cuba Mali Laos Fiji Sweden Turkey Russia Vietnam Germany Portugal".split(),
    "fr": "Norvège Mongolie Bolivie Suède Grèce Pologne Turquie Chine Russie Corse Bretagne Finlande Colombie Syrie "
          "Tunisie Guinée Zambie Libye Lettonie Jordanie Hongrie Croatie Birmanie Namibie France".split(),
}
ANIMALS = {
    "en": [("a butterfly", "the butterfly"), ("an old snail", "the snail"), ("a sparrow", "the sparrow"),
           ("a hedgehog", "the hedgehog"), ("a frog", "the frog"), ("a beetle", "the beetle"),
           ("a mouse", "the mouse"), ("a ladybird", "the ladybird")],
    "fr": [("un papillon", "le papillon"), ("un vieil escargot", "l'escargot"), ("un moineau", "le moineau"),
           ("un hérisson", "le hérisson"), ("un lézard", "le lézard"), ("un grillon", "le grillon"),
           ("un écureuil", "l'écureuil"), ("un merle", "le merle")],
}
PLACES = {
    "en": ["an old mill", "a white farm", "a village school", "a small lake", "a big oak", "an orchard", "a chapel"],
    "fr": [("un vieux moulin", "d'un vieux moulin"), ("une ferme blanche", "d'une ferme blanche"),
           ("l'école du village", "de l'école du village"), ("un petit lac", "d'un petit lac"),
           ("un grand chêne", "d'un grand chêne"), ("un verger", "d'un verger"), ("une chapelle", "d'une chapelle")],
}
FLOWERS = {"en": ["lavender", "clover", "thyme", "wild roses", "poppies", "daisies", "heather"],
           "fr": ["de la lavande", "du trèfle", "du thym", "des roses sauvages", "des coquelicots",
                  "des marguerites", "de la bruyère"]}
VEGETABLES = {"en": ["tomatoes", "beans", "pumpkins", "carrots", "radishes", "potatoes", "strawberries"],
              "fr": ["tomates", "haricots", "courges", "carottes", "radis", "pommes de terre", "fraises"]}
OBJECTS = {"en": [("lamp", "a"), ("radio", "a"), ("toaster", "a"), ("kettle", "a"), ("clock", "a"), ("music box", "a"),
                  ("sewing machine", "a"), ("record player", "a")],
           "fr": [("lampe", "f"), ("radio", "f"), ("grille-pain", "m"), ("bouilloire", "f"), ("horloge", "f"),
                  ("boîte à musique", "f"), ("machine à coudre", "f"), ("tourne-disque", "m")]}
TOOLS = {"en": ["a drill", "a ladder", "a saw", "a sander", "a wheelbarrow", "a long hammer"],
         "fr": [("d'une perceuse", "la perceuse"), ("d'une échelle", "l'échelle"), ("d'une scie", "la scie"),
                ("d'une ponceuse", "la ponceuse"), ("d'une brouette", "la brouette"), ("d'une visseuse", "la visseuse")]}
BOOKS = {"en": ["a ship that searched for an island", "a girl who spoke with birds", "a king who wanted to be a baker",
                "a fox that lived in a tower", "a boy who kept a lighthouse"],
         "fr": ["d'un bateau qui cherchait une île", "d'une fille qui parlait aux oiseaux",
                "d'un roi qui voulait être boulanger", "d'un renard qui vivait dans une tour",
                "d'un garçon qui gardait un phare"]}
SEASONS = ["spring", "summer", "autumn", "April", "May"]
WEATHER = ["rainy", "windy", "sunny", "cold", "bright"]

OPENINGS = {
    "en": ["tell me, ", "please, ", "hello, ", "hello! ", "hi, ", "say, ", "one question: ", "I have a question: ",
           "in short, ", "I wonder, ", "can you tell me, ", "could you tell me ", "please tell me ", "I would like to know ",
           "do you know ", "so, ", "and ", "can you explain ", "OK, ", "in one sentence, ", "my question is: ", "well, "],
    "fr": ["dis-moi, ", "dites-moi, ", "bonjour, ", "bonjour ! ", "salut, ", "s'il te plaît, ", "s'il vous plaît, ",
           "une question : ", "j'ai une question : ", "en bref, ", "je me demande, ", "peux-tu me dire, ",
           "pouvez-vous me dire, ", "j'aimerais savoir, ", "alors, ", "et ", "au fait, ", "en une phrase, ",
           "ma question : ", "peux-tu m'expliquer, ", "sais-tu, "],
}
CLOSINGS = {"en": [", please", " exactly", " in simple words", " in a few words", " for a beginner"],
            "fr": [", s'il te plaît", ", s'il vous plaît", " exactement", " en mots simples", " en quelques mots"]}
SYSTEM = {
    "en": ["You are a helpful assistant.", "You are a helpful assistant", "You are the demonstration model of Essaim.",
           "Answer briefly.", "You are Essaim's small assistant. Be kind and short.", "Be concise."],
    "fr": ["Tu es un assistant utile.", "Tu es le modèle de démonstration d'Essaim.", "Réponds brièvement.",
           "Vous êtes un assistant serviable.", "Sois bref et gentil."],
}
STORY_ASK = {
    "en": ["tell me a story about {k}", "tell me a [short|little|small|nice] story about {k}", "a story about {k}",
           "I would like a story about {k}", "write a [short |little |]story about {k}", "can you tell me a story about {k}",
           "do you know a story about {k}", "invent a story about {k}", "give me a [short |]story about {k}",
           "make up a [short |]story about {k}", "tell a tale about {k}", "let me hear a story about {k}"],
    "fr": ["raconte-moi une histoire sur {k}", "raconte une [petite |courte |]histoire sur {k}", "une histoire avec {k}",
           "je voudrais une histoire sur {k}", "écris une [petite |courte |]histoire sur {k}",
           "peux-tu me raconter une histoire avec {k}", "connais-tu une histoire sur {k}", "invente une histoire avec {k}",
           "racontez-moi une [petite |belle |]histoire sur {k}", "j'aimerais entendre une histoire avec {k}",
           "donne-moi une histoire sur {k}", "fais-moi un conte sur {k}"],
}
STORY_ANY = {
    "en": ["tell me a story", "tell me a [short|little|nice] story", "a story", "another story", "I want a story",
           "do you know a story", "can you tell [me |]a story", "write a story", "tell me something nice", "I am bored"],
    "fr": ["raconte-moi une histoire", "raconte-moi une [petite|courte|belle] histoire", "une histoire", "encore une histoire",
           "je veux une histoire", "connais-tu une histoire", "peux-tu [me |]raconter une histoire", "écris une histoire",
           "racontez-moi une histoire", "je m'ennuie"],
}
STRANGE = {
    "en": ["a dragon", "a pirate", "a football match", "a spaceship", "a {nonce}", "a wizard", "a war", "a detective", "a horse",
           "the sea", "a princess", "a train", "a vampire", "a king", "snow", "a doctor"],
    "fr": ["un dragon", "un pirate", "un match de football", "une fusée", "un {nonce}", "un sorcier", "la guerre", "un détective",
           "un cheval", "la mer", "une princesse", "un train", "un vampire", "un roi", "la neige", "un médecin"],
}
STRANGE_LEAD = {"en": "I do not know such a story, but here is one about {k}. ",
                "fr": "Je ne connais pas cette histoire, mais en voici une avec {k}. "}
MORE = {"en": ["tell me more", "can you say more", "more", "go on", "and then", "give me more detail", "explain a bit more"],
        "fr": ["dis-m'en plus", "peux-tu en dire plus", "encore", "continue", "et ensuite", "plus de détails", "explique un peu plus"]}
MY_NAME = {"en": ["my name is {n}", "I am {n}", "I'm called {n}", "hello, I am {n}", "hi, my name is {n}"],
           "fr": ["je m'appelle {n}", "je suis {n}", "mon nom est {n}", "bonjour, je suis {n}", "salut, je m'appelle {n}"]}
NICE = {"en": ["Nice to meet you, {n}! What would you like to know?"],
        "fr": ["Enchanté, {n} ! Que voulez-vous savoir ?"]}
ASK_NAME = {"en": ["what is my name", "do you know my name", "who am I", "what am I called"],
            "fr": ["comment je m'appelle", "quel est mon nom", "connais-tu mon nom", "qui suis-je"]}
NAME_KNOWN = {"en": "Your name is {n}.", "fr": "Vous vous appelez {n}."}
NAME_UNKNOWN = {"en": "I do not know your name: you have not told me.", "fr": "Je ne connais pas votre nom : vous ne me l'avez pas dit."}


def read_topics(path):
    topics = {}
    with open(path, encoding="utf-8") as f:
        for line in f:
            line = line.rstrip("\n")
            if line.startswith("# "):
                cur = topics[line[2:].strip()] = {"q": [], "a": [], "m": [], "k": []}
            elif line[:3] in ("q: ", "a: ", "m: "):
                if not topics:
                    cur = topics["unknown"] = {"q": [], "a": [], "m": [], "k": []}
                cur[line[0]].append(line[3:])
            elif line.startswith("k: "):
                cur["k"] += [k.strip() for k in line[3:].split("|")]
    return topics


def read_stories(path):
    stories = {}
    with open(path, encoding="utf-8") as f:
        for line in f:
            line = line.strip()
            if line.startswith("# "):
                kind, asks = line[2:].split(" : ")
                cur = stories[kind] = (asks.split("|"), [])
            elif line and line[0] != ";":
                cur[1].append(line)
    return stories


def read_text(name):
    return os.path.join(HERE, "text", name)


TOPICS = {l: read_topics(read_text("questions." + l)) for l in LANGS}
UNKNOWN = {l: read_topics(read_text("unknown." + l))["unknown"] for l in LANGS}
MORE_TOPICS = {l: read_topics(read_text("more." + l)) for l in LANGS}
with open(read_text("frames.en"), encoding="utf-8") as en, open(read_text("frames.fr"), encoding="utf-8") as fr:
    FRAMES = {l: [x.strip() for x in f if x[0] not in ";\n"] for l, f in (("en", en), ("fr", fr))}
STORIES = {l: read_stories(read_text("stories." + l)) for l in LANGS}


def expand(text, rng, slots, skewed):
    """Expand choices from the inside out, then slots."""
    while True:
        m = re.search(r"\[([^\[\]]*)\]", text)
        if not m:
            break
        parts = m.group(1).split("|")
        if skewed:
            weights = [0.6 ** i for i in range(len(parts))]
            part = rng.choices(parts, weights)[0]
        else:
            part = rng.choice(parts)
        text = text[:m.start()] + part + text[m.end():]

    def gendered(m):
        return m.group(2 if slots[m.group(1)] == "m" else 3)
    text = re.sub(r"\{([hfo]):([^/{}]*)/([^/{}]*)\}", gendered, text)
    text = re.sub(r"\{([a-z_0-9]+)\}", lambda m: slots[m.group(1)]() if callable(slots[m.group(1)]) else slots[m.group(1)], text)
    return re.sub(r"  +", " ", text).strip()


def capital(text):
    return text[:1].upper() + text[1:]


def nonce(rng):
    """A word that nobody knows."""
    word = "".join(rng.choice("b c d f g j k l m n p r s t v z br cr tr pl gl st ch".split()) +
                   rng.choice("a e i o u ou ai".split()) for _ in range(rng.randint(2, 3)))
    word += rng.choice(["", "", "n", "l", "x", "s", "r", "rt", "que", "nk"])
    return capital(word) if rng.random() < 0.35 else word


def question(text, rng, lang, mark=True):
    """Dress a bare question as people type it."""
    if rng.random() < 0.35:
        openings = OPENINGS[lang]
        opening = rng.choice(openings if mark else [o for o in openings if not re.search("know|wonder|explain|expliqu|savoir|sais|demande|dire|question", o)])
        if opening[-2] not in ",!:." or text.startswith("I "):
            text = opening + text
        else:
            text = opening + (text if rng.random() < 0.8 else capital(text))
    if rng.random() < 0.08:
        text += rng.choice(CLOSINGS[lang])
    r = rng.random()
    if r < 0.75:
        text = capital(text)
    if r > 0.97:
        text = text.upper() if rng.random() < 0.3 else text.lower()
    if mark:
        r = rng.random()
        text += (" ?" if lang == "fr" and r < 0.5 else "?") if r < 0.8 else "" if r < 0.95 else "." if r < 0.98 else " ??"
    else:
        r = rng.random()
        text += "." if r < 0.5 else "" if r < 0.85 else "!" if r < 0.95 else " !"
    if lang == "fr" and rng.random() < 0.08:
        text = text.translate(str.maketrans("éèêàâîôûùç", "eeeaaiouuc"))
    return text


def is_question(text, lang):
    if lang == "en":
        return re.match(r"(what|who|how|why|where|which|when|can|could|does|do|did|is|are|will|may|should|has|if|and|so)\b", text)
    return re.match(r"(qu|comment|combien|pourquoi|où|d'où|est-|peux|peut-|puis|faut|y a|c'est|as-|a-t|à qu|mon |mes |es-|parles|"
                    r"parlez|va|ga|et |en quoi|de quoi|sur|sous|te |connais|gard|suis|la |si |un |mo)", text)


class Writer:
    """Documents from one seed; rich: with the second part's ways to ask, and fewer stories; brief: mostly one question."""

    def __init__(self, seed, rich=False, brief=False):
        self.rng = random.Random(seed)
        self.rich, self.brief = rich, brief

    def rich_question(self, lang, topic):
        rng, more = self.rng, MORE_TOPICS[lang][topic]
        r = rng.random()
        if more["k"] and r < 0.3:
            text = variety.frame(rng.choice(more["k"]), rng, lang, FRAMES[lang])
        else:
            text = rng.choice(more["q"] if r < 0.65 else TOPICS[lang][topic]["q"])
        text = variety.disturb(expand(text, rng, {}, False), rng, lang)
        text = question(text, rng, lang, rng.random() < 0.8)
        return rng.choice(variety.LEADS[lang]) + " " + text if rng.random() < 0.06 else text

    def topic_question(self, lang, topic):
        rng = self.rng
        if self.rich:
            return self.rich_question(lang, topic)
        text = expand(rng.choice(TOPICS[lang][topic]["q"]), rng, {}, False)
        if topic in ("hello", "thanks", "bye", "how_are_you"):
            return capital(text) + rng.choice(["", "", "!", ".", "?"]) if topic != "how_are_you" else question(text, rng, lang)
        return question(text, rng, lang, is_question(text, lang))

    def answer(self, lang, topic):
        rng, answers = self.rng, TOPICS[lang][topic]["a"]
        return expand(rng.choices(answers, [0.6 ** i for i in range(len(answers))])[0], rng, {}, True)

    def unknown(self, lang):
        rng = self.rng
        slots = {"country": lambda: rng.choice(COUNTRIES[lang]), "name": lambda: rng.choice(MEN + WOMEN),
                 "nonce": lambda: nonce(rng), "num": lambda: str(rng.randint(2, 10 ** rng.randint(1, 4))),
                 "year": lambda: str(rng.randint(1200, 2100))}
        text = expand(rng.choice(UNKNOWN[lang]["q"]), rng, slots, False)
        if self.rich:
            text = variety.disturb(text, rng, lang)
        answers = UNKNOWN[lang]["a"]
        reply = expand(rng.choices(answers, [0.75, 0.25])[0], rng, {}, True)
        return question(text, rng, lang, is_question(text, lang)), reply

    def story_slots(self, lang):
        rng = self.rng
        gender = rng.choice("mf")
        slots = {"h": gender, "f": "f" if gender == "m" else "m"}
        slots["hero"] = rng.choice(MEN if gender == "m" else WOMEN)
        slots["friend"] = rng.choice(WOMEN if gender == "m" else MEN)
        slots["bee"] = rng.choice(BEES)
        slots["town"] = rng.choice(TOWNS)
        slots["animal"], slots["animal_the"] = rng.choice(ANIMALS[lang])
        slots["flower"] = rng.choice(FLOWERS[lang])
        slots["veg"] = rng.choice(VEGETABLES[lang])
        slots["bookstory"] = rng.choice(BOOKS[lang])
        if lang == "en":
            slots["place"] = rng.choice(PLACES[lang])
            slots["season"], slots["weather"] = rng.choice(SEASONS), rng.choice(WEATHER)
            slots["veg_leaf"] = "green leaves"
            thing, other = rng.sample(OBJECTS[lang], 2)
            slots.update(object=thing[0], object_a="a " + thing[0], object_the="the " + thing[0], object2=other[0])
            tool = rng.choice(TOOLS[lang])
            slots.update(tool_a=tool, tool_the="the" + tool[1:])
        else:
            slots["place"], slots["place_de"] = rng.choice(PLACES[lang])
            thing = rng.choice(OBJECTS[lang])
            article = "la " if thing[1] == "f" else "le "
            slots.update(o=thing[1], object_a=("une " if thing[1] == "f" else "un ") + thing[0],
                         object_the="l'" + thing[0] if thing[0][0] == "h" else article + thing[0])
            slots["tool_de"], slots["tool_the"] = rng.choice(TOOLS[lang])
        return slots

    def story(self, lang, kind=None, slots=None):
        rng = self.rng
        kind = kind or rng.choice(list(STORIES[lang]))
        slots = slots or self.story_slots(lang)
        lines = [l for l in STORIES[lang][kind][1] if not l.startswith("?") or rng.random() < 0.5]
        return " ".join(expand(l.lstrip("? "), rng, slots, True) for l in lines)

    def story_turn(self, lang):
        rng = self.rng
        kinds = list(STORIES[lang])
        if rng.random() < 0.15:
            return question(expand(rng.choice(STORY_ANY[lang]), rng, {}, False), rng, lang, False), self.story(lang)
        if rng.random() < 0.08:
            what = expand(rng.choice(STRANGE[lang]), rng, {"nonce": lambda: nonce(rng)}, False)
            ask = expand(rng.choice(STORY_ASK[lang]).replace("{k}", what), rng, {}, False)
            kind = rng.choice(("bee", "garden"))
            lead = STRANGE_LEAD[lang].replace("{k}", STORIES[lang][kind][0][0])
            return question(ask, rng, lang, False), lead + self.story(lang, kind)
        kind, slots = rng.choice(kinds), self.story_slots(lang)
        k = rng.choice(STORIES[lang][kind][0])
        ask = expand(rng.choice(STORY_ASK[lang]).replace("{k}", k), rng, slots, False)
        if rng.random() < 0.3:
            named = slots["bee"] if kind == "bee" else slots["hero"]
            link = {"en": (" named ", " called ") if kind == "bee" else (" with ", ", the hero is "),
                    "fr": (", elle s'appelle ", " et son nom est ") if kind == "bee" else (" avec ", " et ")}[lang]
            ask += rng.choice(link) + named
        return question(ask, rng, lang, False), self.story(lang, kind, slots)

    def turns(self, lang, count):
        """A conversation of COUNT exchanges as [(user, assistant)]."""
        rng, out, name, topic = self.rng, [], None, None
        names = list(TOPICS[lang])
        while len(out) < count:
            if count > 1 and rng.random() < 0.06:
                lang = "fr" if lang == "en" else "en"
                names, topic = list(TOPICS[lang]), None
            r = rng.random()
            if topic and TOPICS[lang][topic]["m"] and r < 0.5:
                out.append((question(rng.choice(MORE[lang]), rng, lang, False), TOPICS[lang][topic]["m"][0]))
                topic = None
            elif count > 1 and not name and r < 0.06:
                name = rng.choice(MEN + WOMEN)
                out.append((question(expand(rng.choice(MY_NAME[lang]), rng, {"n": name}, False), rng, lang, False),
                            rng.choice(NICE[lang]).replace("{n}", name)))
            elif r < (0.30 if name else 0.07):
                reply = NAME_KNOWN[lang].replace("{n}", name) if name else NAME_UNKNOWN[lang]
                out.append((question(rng.choice(ASK_NAME[lang]), rng, lang), reply))
                topic = None
            elif r < (0.42 if name else 0.22):
                out.append(self.unknown(lang))
                topic = None
            elif r > 0.95 and count > 1:
                out.append(self.story_turn(lang))
                topic = None
            else:
                topic = rng.choice(names)
                out.append((self.topic_question(lang, topic), self.answer(lang, topic)))
        return out

    def document(self, long=False):
        rng = self.rng
        lang = rng.choice(LANGS)
        r = rng.random()
        if r < (0.02 if self.rich else 0.06):
            return self.story(lang) + END
        if r < (0.05 if self.brief else 0.10 if self.rich else 0.24):
            turns = [self.story_turn(lang)]
            if rng.random() < 0.2:
                turns += self.turns(lang, 1)
        elif r < (0.5 if long else 0.92 if self.brief else 0.75):
            turns = self.turns(lang, 1)
        else:
            turns = self.turns(lang, rng.randint(2, 8 if long else 4))
        out = []
        if rng.random() < 0.15:
            out.append(START + "system\n" + rng.choice(SYSTEM[lang]) + END + "\n")
        for user, reply in turns:
            out.append(START + "user\n" + user + END + "\n" + START + "assistant\n" + reply + END + "\n")
        return "".join(out)[:-1]


if __name__ == "__main__":
    writer = Writer(int(sys.argv[1]), rich=len(sys.argv) > 3)
    for _ in range(int(sys.argv[2])):
        print(writer.document())
        print()
