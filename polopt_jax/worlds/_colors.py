"""The colours that worlds are drawn in: after Okabe and Ito's, light enough for letters upon them."""

SKY, BLUE, GREEN, YELLOW = "#56b4e9", "#4b8bbe", "#2eb086", "#f0e442"
ORANGE, VERMILION, PINK, GREY = "#e69f00", "#e0703a", "#cc79a7", "#b0b0b0"
WALL_COLOR, FLOOR_COLOR = "#606060", "#f4f4f4"
