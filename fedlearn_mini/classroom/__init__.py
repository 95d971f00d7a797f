"""What stands around the lesson: playgrounds, pictures, exercises, and the way to the notebooks.

The notebooks import from here. Lesson code never does: a federation needs no slider.
"""
