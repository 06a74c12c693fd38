"""Natural synthetic anomalies, approach `nsa`: a network learns to locate synthetic defects."""
