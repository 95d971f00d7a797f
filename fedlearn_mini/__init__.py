"""fedlearn-mini: federated learning across hospitals, small enough to read in one evening.

Two ideas carry the package. **A hospital is a row**: a model is one flat vector of parameters, K hospitals are a matrix
with one row each, and every formula of the server is a formula on that matrix. **A round is a letter down and a letter
up**: what the server may learn is its list of arguments.

====================  ==============================================================================
name                  meaning
====================  ==============================================================================
``K``                 number of hospitals
``n``                 number of records (patients) of a hospital; with padding, of the largest one
``d``                 number of features of a record
``P``                 number of parameters of a model
``X  (..., n, d)``    features
``y  (..., n)``       labels
``w  (..., n)``       row weights: 1/nₖ on the records of hospital k, 0 on padding
``theta  (..., P)``   parameters θ
``updates  (K, P)``   Δₖ = θₖ − θ, what a hospital sends to the server
``weights  (K,)``     what a hospital counts for in an average, usually nₖ
``lr``                learning rate η (notebook 01 writes α, as the text that it checks does)
``mu``                pull towards the server's model, μ
``C``, ``sigma``      clipping norm C and noise multiplier σ
``q``                 sampling rate: chance that a hospital (or record) takes part
``epsilon, delta``    the two numbers of a differential-privacy statement
``rng``               a ``numpy.random.Generator``; chance is always an argument
====================  ==============================================================================

Words: a *hospital* holds *records*. In a *round* the *server* sends an *order*; a hospital takes *local steps* and
sends a *letter* with its *update*; the server averages the updates. Nothing is imported before it is needed:
``import fedlearn_mini`` costs nothing, ``from fedlearn_mini.federation import fit`` loads NumPy alone.
"""

__version__ = "0.1.0"
