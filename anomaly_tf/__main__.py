"""`python -m anomaly_tf`: the same as the console command `anomaly-tf`."""

from anomaly_tf.cli import main

main()
