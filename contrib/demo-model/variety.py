"""The second part of training: more ways to ask, so that the model listens to what a question is about and not to its form.

Questions come from text/more.*, or a topic's name is set in a frame, and then words are swapped for near synonyms,
little words are dropped, and asides are put in. Answers stay those of questions.*."""
import re

SYNONYMS = {
    "en": ["computer machine server laptop PC box", "my our your his her their the this", "read see look know learn notice",
           "write type say ask send tell", "friend neighbour colleague partner club someone stranger", "start launch begin run open",
           "download fetch get load", "stored saved recorded kept logged remembered written", "keep store save remember record",
           "pay spend give", "cost price fee", "energy power electricity current", "stops dies fails crashes breaks falls",
           "remove exclude ban expel revoke drop", "limit restrict bound cap", "share lend give offer", "big large huge",
           "small little tiny", "fast quick", "explain describe define clarify", "can could may might", "do would should will must",
           "program application software script tool", "safe secure protected", "message question text word prompt conversation letter",
           "messages questions texts words prompts conversations things", "make create build write prepare", "company firm business owner",
           "what which", "people users members folk visitors", "somewhere here anywhere", "need want require", "stolen lost taken hacked",
           "work help job task", "exactly really precisely", "today now yesterday"],
    "fr": ["ordinateur serveur PC portable", "machine station", "mon notre ton votre son leur le ce", "ma notre ta votre sa la cette",
           "mes nos tes vos ses les ces", "lire voir regarder savoir connaître", "écrire taper dire demander envoyer",
           "ami voisin collègue partenaire club inconnu", "démarrer lancer commencer ouvrir", "télécharger prendre charger chercher",
           "gardées enregistrées conservées écrites notées", "gardés enregistrés conservés écrits notés", "garder enregistrer conserver noter",
           "payer dépenser donner", "prix coût tarif", "énergie électricité", "tombe s'arrête meurt plante", "retirer exclure chasser révoquer enlever",
           "limiter borner réduire", "partager prêter donner offrir", "grand gros énorme", "petit minuscule", "rapide vite",
           "explique décris définis présente", "peux puis pourrais", "faut doit", "peut pourrait", "programme logiciel application script",
           "sûr protégé", "message texte mot courrier", "messages textes mots courriers", "question demande lettre phrase",
           "questions demandes lettres phrases", "créer faire construire préparer", "entreprise société firme", "quel quelle",
           "gens utilisateurs membres visiteurs", "volé perdu pris piraté", "travail rôle métier", "exactement vraiment précisément",
           "aujourd'hui maintenant hier"],
}
LITTLE = {"en": set("the a an is are do does of to it in for so that this".split()),
          "fr": set("le la les un une de des du est à que ce en se".split())}
ASIDES = {
    "en": ["exactly", "really", "actually", "just", "still", "maybe", "now", "today", "last night", "in the end", "for my association",
           "in our club", "every day", "each year", "somewhere", "by myself", "at home", "with my friends", "one day", "in practice",
           "as a beginner", "for us", "on my side", "after all", "to my mother", "in the middle", "at the moment", "for a friend",
           "beside the others", "when I am away", "on Friday", "this week", "of any kind", "some day", "in your opinion"],
    "fr": ["exactement", "vraiment", "en fait", "juste", "encore", "peut-être", "maintenant", "aujourd'hui", "hier soir", "à la fin",
           "pour mon association", "dans notre club", "chaque jour", "chaque année", "quelque part", "tout seul", "chez moi",
           "avec mes amis", "un jour", "en pratique", "pour un débutant", "pour nous", "de mon côté", "après tout", "à ma mère",
           "au milieu", "en ce moment", "pour un ami", "à côté des autres", "quand je suis parti", "vendredi", "cette semaine", "à ton avis"],
}
LEADS = {"en": ["I am new here.", "We are a small association.", "My neighbour asks me this.", "I am curious.", "Good evening.",
                "I read your page.", "We have two servers.", "I am a beginner.", "Listen.", "Another question.", "It is late."],
         "fr": ["Je suis nouveau ici.", "Nous sommes une petite association.", "Mon voisin me le demande.", "Je suis curieux.", "Bonsoir.",
                "J'ai lu votre page.", "Nous avons deux serveurs.", "Je débute.", "Écoute.", "Une autre question.", "Il est tard."]}
GROUPS = {l: {w: g.split() for g in groups for w in g.split()} for l, groups in SYNONYMS.items()}


def disturb(text, rng, lang):
    """Swap, drop and insert words; half of the questions stay as they are."""
    if rng.random() < 0.5:
        return text
    out = []
    for word in text.split():
        bare = word.strip(",")
        if bare in GROUPS[lang] and rng.random() < 0.3:
            word = word.replace(bare, rng.choice(GROUPS[lang][bare]))
        elif bare in LITTLE[lang] and rng.random() < 0.12:
            continue
        out.append(word)
    if rng.random() < 0.35:
        out.insert(rng.randint(1, len(out)) if out else 0, rng.choice(ASIDES[lang]))
    return " ".join(out) or text


def frame(name, rng, lang, frames):
    text = rng.choice(frames).replace("{k}", name)
    if lang == "fr":
        text = re.sub(r"\b(ce qu)e ([aeiouéêh])", r"\1'\2", text)
    return text
