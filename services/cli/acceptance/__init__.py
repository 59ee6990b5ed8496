"""`tafs accept`: what a machine can be shown to do, as a list of claims with what was found for each."""
