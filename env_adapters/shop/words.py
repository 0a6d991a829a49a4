"""The vocabulary of the shop's made-up data."""

from __future__ import annotations

ME = "mira"
MY_NAME = "Mira Lindqvist"
CATEGORIES = {
    "lamps": ("Lamps", ("desk lamp", "floor lamp", "reading lamp", "lantern", "night light")),
    "chairs": ("Chairs", ("armchair", "stool", "rocking chair", "bench", "folding chair")),
    "mugs": ("Mugs", ("coffee mug", "tea cup", "travel mug", "espresso cup", "beer mug")),
    "bags": ("Bags", ("backpack", "tote bag", "messenger bag", "duffel bag", "belt bag")),
    "jackets": ("Jackets", ("rain jacket", "parka", "fleece", "windbreaker", "vest")),
    "books": ("Notebooks", ("notebook", "sketchbook", "diary", "planner", "music book")),
}
BRANDS = (
    "Alder",
    "Brume",
    "Corvo",
    "Dunlin",
    "Ember",
    "Fjell",
    "Garnet",
    "Heron",
    "Inkwell",
    "Juniper",
    "Kestrel",
    "Lumo",
    "Marlow",
    "Nettle",
    "Orrin",
    "Plover",
)
COLOURS = ("red", "blue", "green", "black", "white", "yellow")
MATERIALS = ("oak", "steel", "cotton", "ceramic", "felt", "bamboo", "linen", "cork")
PEOPLE = (
    "anton",
    "bea",
    "cyril",
    "dana",
    "edith",
    "farid",
    "greta",
    "hugo",
    "ines",
    "jonas",
    "katya",
    "leo",
    "maud",
    "nils",
    "olga",
    "pavel",
)
SURNAMES = ("Abbott", "Berg", "Castell", "Doyle", "Eriksen", "Fontaine", "Grant", "Holm", "Ivers", "Jansen")
CITIES = ("Aarhus", "Bergen", "Cork", "Delft", "Essen", "Faro", "Ghent", "Haarlem", "Izola", "Jena", "Kiruna", "Lund")
STREETS = (
    "Mill Lane",
    "Harbour Street",
    "Station Road",
    "Church Hill",
    "Orchard Way",
    "Bridge Street",
    "Park Row",
    "Quarry Road",
    "Elm Grove",
    "Canal Walk",
)
BOARDS = {"care": "Care and repair", "ideas": "Ideas for the shop", "deals": "Deals and finds", "chat": "Small talk"}
SHIPPING = {"standard": "Standard (4 to 6 days)", "express": "Express (next day)", "pickup": "Pickup point"}
REASONS = ("spam", "rude", "off topic", "wrong information")
STARS = {
    1: ("Not for me", "Broke after a week."),
    2: ("Could be better", "The finish is rough in places."),
    3: ("All right", "Does what it should, no more."),
    4: ("Good", "Well made, and it came quickly."),
    5: ("Excellent", "I would buy it again at once."),
}
TOPICS = (
    "squeaking hinges",
    "washing at sixty degrees",
    "a scratch on the lid",
    "longer straps",
    "gift wrapping",
    "opening hours",
    "a summer sale",
    "spare screws",
    "left-handed versions",
    "a colour that faded",
    "cork or felt",
    "weekend delivery",
    "a smell of glue",
    "bigger sizes",
    "a loyalty card",
    "used ones",
)
THREADS = ("Question about {topic}", "My thoughts on {topic}", "Has anybody tried {topic}?", "Again: {topic}")
POSTS = (
    "I had the same with {topic} last year.",
    "Nobody at the counter knew about {topic}.",
    "It took me an afternoon to sort out {topic}.",
    "There is a note on {topic} in the leaflet.",
    "I would not worry about {topic} too much.",
    "Somebody should write a guide to {topic}.",
    "My neighbour swears by {topic}.",
    "Two of mine had to do with {topic}, the third did not.",
)
SENTENCES = (
    "Thank you, that helped me a lot.",
    "Mine arrived yesterday and it works well.",
    "Please write again when you know more.",
    "I have the same question as you.",
    "The second size fits better than the first.",
    "It can be mended with a drop of oil.",
    "I asked the shop and they will call back.",
    "A soft cloth and warm water are enough.",
)
TITLES = ("Better than I thought", "Second look", "After three months", "I changed my mind", "A fair price")
