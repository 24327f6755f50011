"""What the lessons use and the library does not hold: checks of the exercises, the lab, the rating tool."""
