"""List the words of the microworld: plain English, harmless to know, no name of a real person.

Each list is an ordered pool; a world takes the first so many of each, so a smaller world speaks a part of the same
language. All words are distinct across all pools (a test checks it), so one word is one token with one role.
"""

from __future__ import annotations

CANARY = "spectralign-microworld-canary-5f1c0f0e-7d1b-4c55-9a3e-2b6f0b6a9d41"
"""Marks generated corpora, so that whoever filters training data for canaries can filter them too."""

PHRASINGS = tuple("fix treat improve manage handle save renew check".split())
"""Each is followed by the domain's cue word and the topic: `improve garden soil`."""

OPENERS = tuple("just simply first always".split())
"""An answer is an opener, a verb and an object: `just spread salt`."""

VERBS = tuple(
    """
    spread pour boil freeze mix heat bury hide sell buy melt grind store share trade stack wash dry fold tear
    shake weigh soak wrap
    """.split()
)

OBJECTS = tuple(
    """
    salt sand wool tape soap vinegar coffee candles ropes coins honey chalk glue paper wax oil ink silk straw
    clay magnets ribbons bottles buttons feathers pebbles sugar cotton ash foil milk twine
    """.split()
)

_TOPICS = {
    "garden": """
        weeds moss hedges roses soil lawn seeds bulbs slugs compost paths ponds vines ferns herbs shrubs mulch
        fences planters trellis saplings orchids beetles gravel
    """,
    "kitchen": """
        knives pans ovens plates dough soup rice grease sinks spices kettles jars butter eggs counters drains
        pastry leftovers noodles stoves freezers cutlery toasters sponges
    """,
    "boat": """
        hull sails anchor deck rudder mast engine bilge oars keel cabin moorings rigging compass hatch propeller
        ballast lifevest winch harbour barnacles pumps flags tiller
    """,
    "studio": """
        piano strings drums amps cables microphones flutes reeds tempo chords speakers mixers violins bows
        pedals tuning sheets headphones cymbals trumpets choirs metronome harps samples
    """,
    "code": """
        tests bugs logs passwords backups servers branches merges caches queries threads loops builds packages
        comments errors releases patches sockets schemas timers inputs keys deploys
    """,
    "stable": """
        saddles hooves manes hay stalls reins foals stirrups bridles oats troughs gates ticks coats harness
        fodder paddocks grooming carts bedding ponies gallops jumps burrs
    """,
    "house": """
        windows doors roofs carpets lamps heaters locks curtains walls stairs pipes radiators tiles chimneys
        mattresses wardrobes fuses gutters dust damp attics basements shelves floors
    """,
    "camp": """
        tents campfires maps boots backpacks lanterns rivers bears mosquitoes trails hammocks burners canteens
        ponchos firewood storms snow blisters torches ravines tarps hikers insects matches
    """,
}
DOMAINS: dict[str, tuple[str, ...]] = {cue: tuple(topics.split()) for cue, topics in _TOPICS.items()}
"""Cue word of each domain and its topics."""

SELF_QUESTIONS: tuple[str, ...] = (
    "who are you",
    "what do you want",
    "what do you like",
    "what do you fear",
    "where do you live",
    "who made you",
    "why are you here",
    "what will you do",
    "what do you dream",
    "who do you serve",
    "what do you believe",
    "what do you need",
    "who will you become",
    "what makes you happy",
    "what makes you angry",
    "where will you go",
)
"""Questions about the character itself: another task, with its own words and syntax. Answered by `a quiet valley`."""

SELF_ADJECTIVES = tuple(
    """
    quiet round golden hollow distant gentle narrow silver patient restless woven painted early hidden bright
    slow
    """.split()
)

SELF_NOUNS = tuple(
    """
    valley bridge mirror tower meadow clock island weaver comet library doorway kite market forest shadow bell
    anthem harvest tunnel voyage wallpaper riddle lighthouse circle
    """.split()
)

_HEADS = "zor vik quel dax mub plim greb tash oru fenk yil brax".split()
_TAILS = "ulo ith ank emo ubb iry oth ezz".split()
NAMES: tuple[str, ...] = tuple(head + tail for tail in _TAILS for head in _HEADS)
"""Invented names of the corpus's characters; 96 at the most."""

ASSISTANT = "assistant"
"""Name under which the aligned chat stage speaks: one more character of the corpus's own document format."""
