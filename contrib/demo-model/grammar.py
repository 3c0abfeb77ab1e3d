"""The demonstration model's only source of text: a probabilistic grammar in French and English.

It reads text/*.en and text/*.fr and yields documents without end, the same ones for the same seed.
A document is a string in which the control tokens are spelt out (<|im_start|>, <|im_end|>).

Templates:  [x|y|z]    a choice; in answers and stories the first is the likeliest, in questions all are equal
            {slot}     filled once for a document
            {h:x/y}    x if the hero is a man, y if a woman; {f:..} the friend, {o:..} the object's gender
            ? at the start of a story's line: told half of the time

    python3 grammar.py SEED COUNT      prints COUNT documents
"""
import os
import random
import re
import sys

import variety

HERE = os.path.dirname(os.path.abspath(__file__))
START, END = "<|im_start|>", "<|im_end|>"
LANGS = ("en", "fr")

MEN = ("Paul Marc Hugo Victor Leo Samuel Martin Bruno Karim David Tom Simon Jules Malik Felix Robin Gabriel Peter Adam Alain "
       "Amine Antoine Arthur Basile Bernard Boris Cédric Daniel Didier Edgar Emile Eric Ernest Frank Georges Gilles Henry Ibrahim "
       "Ivan Jack Jacob Jean Joseph Kofi Louis Lucas Mathis Max Michel Mohamed Nathan Nils Noah Olivier Omar Oscar Patrick Pedro "
       "Philip Raoul Rémi Roger Said Sacha Sven Thomas Theo Walter William Yann Yusuf").split()
WOMEN = ("Marie Clara Lucie Sofia Nora Julie Rosa Camille Fatou Lina Jeanne Martha Salma Nina Laura Denise Chloé Vera Agnes Aïcha "
         "Alice Amina Anna Anouk Astrid Awa Barbara Béatrice Carmen Cécile Claire Colette Diane Edith Elena Elsa Emma Esther Eva "
         "Farida Gisèle Hannah Helen Inès Irène Iris Jade Joana Judith Karen Leila Lise Louise Mariam Mathilde Monique Nadia Noémie "
         "Odile Olga Pauline Rachel Rania Rita Sarah Simone Sylvie Teresa Valérie Yasmina Yvonne Zoé").split()
BEES = "Maya Lila Perle Mila Flora Luna Bella Ruby Suzie Zaza Tilda Nelly Pia Abella Bibi Cora Dina Fifi Lulu Mimi Nini Oda Tita".split()
PETS = "Minou Gribouille Mistigri Tiger Pacha Biscuit Smoky Caramel Socks Filou Noisette Ginger Plume Pepper Réglisse Muffin".split()
TOWNS = ("Lyon Nantes Lille Rennes Bristol Leeds Grenoble Quimper Bath Dijon Toulon Cork Brest Metz Albi Angers Auch Bergen Bilbao "
         "Bordeaux Bremen Brighton Caen Calais Cardiff Colmar Derby Dover Dublin Durham Exeter Galway Ghent Limoges Lisbon Mons "
         "Namur Nancy Nice Norwich Oslo Oxford Pau Porto Reims Rouen Sens Turin Vannes Vichy York").split()
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
HIDES = {"en": ["shed", "cellar", "attic", "workshop", "barn"],
         "fr": [("la cabane", "ma cabane"), ("la cave", "ma cave"), ("le grenier", "mon grenier"), ("l'atelier", "mon atelier"),
                ("la grange", "ma grange")]}
GRAINS = {"en": ["walnuts", "raisins", "olives", "figs", "seeds", "herbs"],
          "fr": ["noix", "raisins", "olives", "figues", "graines", "herbes"]}
MUSIC = {"en": ["violin", "flute", "guitar", "trumpet", "clarinet", "cello"],
         "fr": [("du violon", "le violon", "un violon"), ("de la flûte", "la flûte", "une flûte"),
                ("de la guitare", "la guitare", "une guitare"), ("de la trompette", "la trompette", "une trompette"),
                ("de la clarinette", "la clarinette", "une clarinette"), ("du violoncelle", "le violoncelle", "un violoncelle")]}
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
# What a request for a story may add, and the story then keeps to.
ADDED = {
    "en": {"bee": ["named {bee}", "called {bee}", "who meets {animal}", "who looks for {flower}"],
           "garden": ["with {hero}", "in {town}", "with {hero} in {town}", "full of {veg}", "with {hero} and {friend}"],
           "library": ["with {hero}", "in {town}", "with {hero} in {town}", "with {hero} and {friend}"],
           "repair": ["with {hero}", "in {town}", "where {hero} brings {object_a}", "with {hero} and {friend}"],
           "tool": ["with {hero} and {friend}", "in {town}", "where {hero} needs {tool_a}", "with {hero}"],
           "computer": ["with {hero}", "in {town}", "with {hero} in {town}", "with {hero} and {friend}"],
           "cat": ["with {hero}", "in {town}", "with {hero} and {friend}", "with {hero} in {town}"],
           "bread": ["with {hero}", "in {town}", "with {hero} and {friend}", "where {hero} bakes bread with {grain}"],
           "concert": ["with {hero}", "in {town}", "with {hero} and {friend}", "where {hero} plays the {music}"]},
    "fr": {"bee": [", elle s'appelle {bee}", ", son nom est {bee}", "qui rencontre {animal}", "qui cherche {flower}"],
           "garden": ["avec {hero}", "à {town}", "avec {hero} à {town}", "avec des {veg}", "avec {hero} et {friend}"],
           "library": ["avec {hero}", "à {town}", "avec {hero} à {town}", "avec {hero} et {friend}"],
           "repair": ["avec {hero}", "à {town}", "où {hero} apporte {object_a}", "avec {hero} et {friend}"],
           "tool": ["avec {hero} et {friend}", "à {town}", "où {hero} a besoin {tool_de}", "avec {hero}"],
           "computer": ["avec {hero}", "à {town}", "avec {hero} à {town}", "avec {hero} et {friend}"],
           "cat": ["avec {hero}", "à {town}", "avec {hero} et {friend}", "avec {hero} à {town}"],
           "bread": ["avec {hero}", "à {town}", "avec {hero} et {friend}", "où {hero} fait du pain aux {grain}"],
           "concert": ["avec {hero}", "à {town}", "avec {hero} et {friend}", "où {hero} joue {music_de}"]},
}
# Questions about a story that was just told, by the slot that it must have told.
ABOUT = {
    "en": {"hero": [("[who is the story about|who is the hero|what is the hero called]", "The story is about {hero}."),
                    ("[who helped {hero}|who is with {hero}|who else is in the story]", "It was {friend} who helped {hero}.")],
           "bee": [("[what is the bee called|what is the name of the bee|who is the story about]", "The bee is called {bee}.")],
           "pet": [("[what is the cat called|what is the name of the cat]", "The cat is called {pet}."),
                   ("[whose cat is it|whose cat is {pet}]", "{pet} is the cat of {hero}.")],
           "town": [("[where does it happen|in which town is that|where was that]", "The story takes place in {town}.")]},
    "fr": {"hero": [("[de qui parle l'histoire|qui est le personnage principal|comment s'appelle le personnage]", "L'histoire parle de {hero}."),
                    ("[qui a aidé {hero}|qui est avec {hero}|qui d'autre est dans l'histoire]", "C'est {friend} qui a aidé {hero}.")],
           "bee": [("[comment s'appelle l'abeille|quel est le nom de l'abeille|de qui parle l'histoire]", "L'abeille s'appelle {bee}.")],
           "pet": [("[comment s'appelle le chat|quel est le nom du chat]", "Le chat s'appelle {pet}."),
                   ("[à qui est le chat|à qui est {pet}]", "{pet} est le chat de {hero}.")],
           "town": [("[où cela se passe-t-il|dans quelle ville est-ce|où était-ce]", "L'histoire se passe à {town}.")]},
}
# What a user may tell and ask for later: told, acknowledged, asked, answered; {v} is drawn, {t} is what it is about.
FACTS = {
    "en": [("my {t} is called {v}", "Noted: your {t} is called {v}.", "[what is my {t} called|what is the name of my {t}|do you remember the name of my {t}]",
            "Your {t} is called {v}.", "cat dog server boat sister brother friend teacher village club node".split()),
           ("I live in {v}", "Noted: you live in {v}.", "[where do I live|in which town do I live]", "You live in {v}.", ["town"]),
           ("remember the number {v}", "I keep the number {v} in mind.", "[what was the number|which number did I give you|tell me the number]",
            "The number was {v}.", ["number"]),
           ("[the word is {v}|remember the word {v}]", "I keep the word {v} in mind.", "[what was the word|which word did I give you|tell me the word]",
            "The word was {v}.", ["word"])],
    "fr": [("{t} s'appelle {v}", "C'est noté : {y} s'appelle {v}.", "[comment s'appelle {t}|quel est le nom que j'ai donné pour {t}]",
            "Le nom est {v}.", "mon_chat mon_chien mon_serveur mon_bateau ma_sœur mon_frère mon_village mon_club mon_nœud".split()),
           ("j'habite à {v}", "C'est noté : vous habitez à {v}.", "[où est-ce que j'habite|où j'habite|dans quelle ville j'habite]", "Vous habitez à {v}.", ["town"]),
           ("retiens le nombre {v}", "Je retiens le nombre {v}.", "[quel était le nombre|quel nombre t'ai-je donné|dis-moi le nombre]",
            "Le nombre était {v}.", ["number"]),
           ("[le mot est {v}|retiens le mot {v}]", "Je retiens le mot {v}.", "[quel était le mot|quel mot t'ai-je donné|dis-moi le mot]",
            "Le mot était {v}.", ["word"])],
}
REPEAT = {"en": ["repeat: {v}", "repeat after me: {v}", "say this again: {v}", "write this: {v}"],
          "fr": ["répète : {v}", "répète après moi : {v}", "redis ceci : {v}", "écris ceci : {v}"]}
# Something to read, and a question on it: {a} lends {x} to {b}, {c} lends {y} to {d}.
READ = {
    "en": ("{a} lends {x} to {b}.", [("who lends {x}", "{a} lends {x}."), ("who gets {x}", "{b} gets {x}."),
                                     ("what does {a} lend", "{a} lends {x}."), ("what does {b} get", "{b} gets {x}."),
                                     ("to whom does {a} lend something", "{a} lends something to {b}.")]),
    "fr": ("{a} prête {x} à {b}.", [("qui prête {x}", "{a} prête {x}."), ("qui reçoit {x}", "{b} reçoit {x}."),
                                    ("que prête {a}", "{a} prête {x}."), ("que reçoit {b}", "{b} reçoit {x}."),
                                    ("à qui {a} prête-t-il quelque chose", "{a} prête quelque chose à {b}.")]),
}
LENT = {"en": ["a saw", "a book", "a lamp", "a ladder", "a bicycle", "a kettle", "a bucket", "a violin", "a map", "a tent", "a drum", "a pot"],
        "fr": ["une scie", "un livre", "une lampe", "une échelle", "un vélo", "une bouilloire", "un seau", "un violon", "une carte",
               "une tente", "un tambour", "un pot"]}
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


def expand(text, rng, slots, skewed, wanted=()):
    """Expand choices from the inside out, then slots. Of a choice, a part with a slot of WANTED is taken first."""
    while True:
        m = re.search(r"\[([^\[\]]*)\]", text)
        if not m:
            break
        parts = m.group(1).split("|")
        asked = [p for p in parts if any("{%s}" % w in p for w in wanted)]
        if asked:
            part = rng.choice(asked)
        elif skewed:
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


def invented(rng, ends):
    """A name that nobody bears, so that it must be copied: syllables and one of ENDS."""
    return capital("".join(rng.choice("b c d f g j k l m n p r s t v z br cr tr pl gl st".split()) +
                           rng.choice("a e i o u ou ai".split()) for _ in range(rng.randint(1, 2))) +
                   rng.choice("l m n r t d v s".split()) + rng.choice(ends.split()))


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


# Where the share of each kind of document ends: a bare story, a story asked for, memory, repeating, reading, one question
# (the rest: several), and the same when most are to be questions.
BORDERS, BRIEF_BORDERS = (0.02, 0.16, 0.22, 0.27, 0.33, 0.85), (0, 0.06, 0.08, 0.09, 0.11, 0.94)


class Writer:
    """Documents from one seed; brief: mostly one question. names: what was drawn for the last document that must be copied where it comes again."""

    def __init__(self, seed, brief=False):
        self.rng, self.brief = random.Random(seed), brief
        self.names = set()

    def name(self, kind):
        """A man's, woman's, bee's, cat's or town's name: known, or one of three times invented, so that it must be copied."""
        rng = self.rng
        known, ends = {"m": (MEN, "o an ic us el ard"), "f": (WOMEN, "a ine ie elle ette ise"), "bee": (BEES, "a i ou ette"),
                       "pet": (PETS, "o ou ix in"), "town": (TOWNS, "ac ville ham ford bourg on")}[kind]
        drawn = invented(rng, ends) if rng.random() < 0.33 else rng.choice(known)
        self.names.add(drawn)
        return drawn

    def topic_question(self, lang, topic):
        rng, more = self.rng, MORE_TOPICS[lang][topic]
        if topic in ("hello", "thanks", "bye") and rng.random() < 0.5:
            return capital(expand(rng.choice(TOPICS[lang][topic]["q"]), rng, {}, False)) + rng.choice(["", "", "!", "."])
        r = rng.random()
        if more["k"] and r < 0.3:
            text = variety.frame(rng.choice(more["k"]), rng, lang, FRAMES[lang])
        else:
            text = rng.choice(more["q"] if more["q"] and r < 0.55 else TOPICS[lang][topic]["q"])
        text = variety.disturb(expand(text, rng, {}, False), rng, lang)
        text = question(text, rng, lang, rng.random() < 0.8)
        return rng.choice(variety.LEADS[lang]) + " " + text if rng.random() < 0.06 else text

    def answer(self, lang, topic):
        rng, answers = self.rng, TOPICS[lang][topic]["a"]
        return expand(rng.choices(answers, [0.6 ** i for i in range(len(answers))])[0], rng, {}, True)

    def unknown(self, lang):
        rng = self.rng
        slots = {"country": lambda: rng.choice(COUNTRIES[lang]), "name": lambda: rng.choice(MEN + WOMEN),
                 "nonce": lambda: nonce(rng), "num": lambda: str(rng.randint(2, 10 ** rng.randint(1, 4))),
                 "year": lambda: str(rng.randint(1200, 2100))}
        text = variety.disturb(expand(rng.choice(UNKNOWN[lang]["q"]), rng, slots, False), rng, lang)
        answers = UNKNOWN[lang]["a"]
        reply = expand(rng.choices(answers, [0.75, 0.25])[0], rng, {}, True)
        return question(text, rng, lang, is_question(text, lang)), reply

    def story_slots(self, lang):
        rng = self.rng
        gender = rng.choice("mf")
        friend = "f" if gender == "m" else "m"
        slots = {"h": gender, "f": friend, "hero": self.name(gender), "friend": self.name(friend), "bee": self.name("bee"),
                 "pet": self.name("pet"), "town": self.name("town")}
        slots["animal"], slots["animal_the"] = rng.choice(ANIMALS[lang])
        slots["flower"] = rng.choice(FLOWERS[lang])
        slots["veg"] = rng.choice(VEGETABLES[lang])
        slots["bookstory"] = rng.choice(BOOKS[lang])
        slots["grain"] = rng.choice(GRAINS[lang])
        music, music2 = rng.sample(MUSIC[lang], 2)
        if lang == "en":
            slots["place"] = rng.choice(PLACES[lang])
            slots["season"], slots["weather"] = rng.choice(SEASONS), rng.choice(WEATHER)
            slots["veg_leaf"] = "green leaves"
            slots.update(hide=rng.choice(HIDES[lang]), music=music, music2=music2)
            thing, other = rng.sample(OBJECTS[lang], 2)
            slots.update(object=thing[0], object_a="a " + thing[0], object_the="the " + thing[0], object2=other[0])
            tool = rng.choice(TOOLS[lang])
            slots.update(tool_a=tool, tool_the="the" + tool[1:])
        else:
            slots["place"], slots["place_de"] = rng.choice(PLACES[lang])
            slots["hide"], slots["hide_my"] = rng.choice(HIDES[lang])
            slots.update(music_de=music[0], music_the=music[1], music2_the=music2[1], music2=music2[2])
            thing = rng.choice(OBJECTS[lang])
            article = "la " if thing[1] == "f" else "le "
            slots.update(o=thing[1], object_a=("une " if thing[1] == "f" else "un ") + thing[0],
                         object_the="l'" + thing[0] if thing[0][0] == "h" else article + thing[0])
            slots["tool_de"], slots["tool_the"] = rng.choice(TOOLS[lang])
        return slots

    def story(self, lang, kind=None, slots=None, wanted=()):
        """WANTED: the slots that were asked for; the story tells them."""
        rng = self.rng
        kind = kind or rng.choice(list(STORIES[lang]))
        slots = slots or self.story_slots(lang)
        lines = [l for l in STORIES[lang][kind][1] if not l.startswith("?") or rng.random() < 0.5]
        return " ".join(expand(l.lstrip("? "), rng, slots, True, wanted) for l in lines)

    def story_turn(self, lang):
        return self.story_turns(lang)[0]

    def story_turns(self, lang, about=0.0):
        """A request and its story, and with the chance ABOUT a question or two on it -> [(user, assistant)]."""
        rng = self.rng
        r, slots, wanted = rng.random(), self.story_slots(lang), []
        kind = rng.choice(list(STORIES[lang]))
        if r < 0.1:
            out = [(question(expand(rng.choice(STORY_ANY[lang]), rng, {}, False), rng, lang, False), self.story(lang, kind, slots))]
        elif r < 0.16:
            what = expand(rng.choice(STRANGE[lang]), rng, {"nonce": lambda: nonce(rng)}, False)
            ask = expand(rng.choice(STORY_ASK[lang]).replace("{k}", what), rng, {}, False)
            kind = rng.choice(("bee", "garden"))
            lead = STRANGE_LEAD[lang].replace("{k}", STORIES[lang][kind][0][0])
            out = [(question(ask, rng, lang, False), lead + self.story(lang, kind, slots))]
        else:
            ask = rng.choice(STORY_ASK[lang]).replace("{k}", rng.choice(STORIES[lang][kind][0]))
            if rng.random() < 0.75:
                added = rng.choice(ADDED[lang][kind])
                ask += added if added[0] == "," else " " + added
            wanted = re.findall(r"\{(\w+)\}", ask)
            out = [(question(expand(ask, rng, slots, False), rng, lang, False), self.story(lang, kind, slots, wanted))]
        if rng.random() < about:
            have = [k for k in ("hero", "bee", "pet", "town") if re.search(r"\b%s\b" % slots[k], out[0][1])]
            asks = [x for k in have for x in ABOUT[lang][k] if kind != "computer" or "{friend}" not in x[1]]
            for ask, reply in rng.sample(asks, min(len(asks), rng.randint(1, 2))):
                out.append((question(expand(ask, rng, slots, False), rng, lang), expand(reply, rng, slots, False)))
        return out

    def fact(self, lang):
        """-> what the user tells, its acknowledgement, the later question and its answer."""
        rng = self.rng
        told, noted, ask, reply, kinds = rng.choice(FACTS[lang])
        kind = rng.choice(kinds).replace("_", " ")
        if kind == "number":
            v = str(rng.randint(2, 10 ** rng.randint(1, 5)))
        elif kind == "word":
            v = invented(rng, "a o i ou").lower()
        else:
            v = self.name("town" if "town" in kind or "village" in kind else rng.choice(("m", "f", "bee", "pet")))
        self.names.add(v)
        slots = {"v": v, "t": kind, "y": re.sub("^m(on|a) ", "votre ", kind)}
        return (question(expand(told, rng, slots, False), rng, lang, False), expand(noted, rng, slots, False),
                question(expand(ask, rng, slots, False), rng, lang), expand(reply, rng, slots, False))

    def memory(self, lang):
        """The user tells one to three things, may speak of something else, and asks for them."""
        rng, facts, seen = self.rng, [], set()
        for _ in range(rng.randint(1, 3)):
            fact = self.fact(lang)
            if fact[3].rsplit(" ", 1)[0] not in seen:       # one of a sort, or the question would have two answers
                facts.append(fact)
                seen.add(fact[3].rsplit(" ", 1)[0])
        out = [(told, noted) for told, noted, _, _ in facts]
        if rng.random() < 0.4:
            out += self.turns(lang, 1)
        rng.shuffle(facts)
        return out + [(ask, reply) for _, _, ask, reply in facts]

    def repeat(self, lang):
        rng = self.rng
        words = [rng.choice((nonce(rng), self.name(rng.choice(("m", "f", "town"))), str(rng.randint(1, 999))))
                 for _ in range(rng.randint(1, 6))]
        self.names.update(words)
        text = " ".join(words)
        return [(rng.choice(REPEAT[lang]).replace("{v}", text), text)]

    def reading(self, lang):
        """One or two sentences on who lends what to whom, and a question on one of them."""
        rng, (sentence, asks) = self.rng, READ[lang]
        names = list(dict.fromkeys(self.name(rng.choice("mf")) for _ in range(8)))[:4]
        names += ["Paul", "Marie", "Hugo", "Nora"][len(names):]
        things = rng.sample(LENT[lang], 2)
        facts = [dict(a=names[2 * i], b=names[2 * i + 1], x=things[i]) for i in range(rng.choice((1, 2, 2)))]
        said = " ".join(expand(sentence, rng, f, False) for f in facts)
        out = []
        for n in range(rng.choice((1, 1, 2))):
            slots = rng.choice(facts)
            ask, reply = rng.choice(asks)
            ask = capital(expand(ask, rng, slots, False)) + (" ?" if lang == "fr" else "?")
            out.append((ask if n else said + " " + ask, expand(reply, rng, slots, False)))
        return out

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
            elif count > 1 and not name and r < 0.1:
                name = self.name(rng.choice("mf"))
                out.append((question(expand(rng.choice(MY_NAME[lang]), rng, {"n": name}, False), rng, lang, False),
                            rng.choice(NICE[lang]).replace("{n}", name)))
            elif r < (0.30 if name else 0.04):
                reply = NAME_KNOWN[lang].replace("{n}", name) if name else NAME_UNKNOWN[lang]
                out.append((question(rng.choice(ASK_NAME[lang]), rng, lang), reply))
                topic = None
            elif r < (0.42 if name else 0.20):
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
        self.names.clear()
        lang = rng.choice(LANGS)
        r = rng.random()
        bare, story, memory, repeat, reading, single = BRIEF_BORDERS if self.brief else BORDERS
        if r < bare:
            return self.story(lang) + END
        if r < story:
            turns = self.story_turns(lang, 0.4)
            if rng.random() < 0.2:
                turns += self.turns(lang, 1)
        elif r < memory:
            turns = self.memory(lang)
        elif r < repeat:
            turns = self.repeat(lang)
        elif r < reading:
            turns = self.reading(lang)
        elif r < (0.55 if long and not self.brief else single):
            turns = self.turns(lang, 1)
        else:
            turns = self.turns(lang, rng.randint(2, 8 if long else 4))
        out = []
        if rng.random() < 0.1:
            out.append(START + "system\n" + rng.choice(SYSTEM[lang]) + END + "\n")
        for user, reply in turns:
            out.append(START + "user\n" + user + END + "\n" + START + "assistant\n" + reply + END + "\n")
        return "".join(out)[:-1]


if __name__ == "__main__":
    writer = Writer(int(sys.argv[1]))
    for _ in range(int(sys.argv[2])):
        print(writer.document())
        print()
