"""The lines of a fine-tuning run: phases, what is a mean, and validation that counts its windows."""

from qa_ray.training.progress import TRAINING, TrainingProgress, describe_training


def test_the_loss_of_the_line_is_called_a_mean():
    progress = TrainingProgress(num_epochs=2)
    progress.begin(TRAINING)
    for step, loss in enumerate((4.0, 2.0), 1):
        progress.add_step(0, step, 10, loss, tokens=100, seconds=0.5)
    line = describe_training(progress.state())
    assert line == "epoch 1/2, step 2/10, mean loss of about 20 steps 3.900, 200 tokens/s, 0:00:18 left"


def test_every_phase_has_a_line_and_validation_counts_its_windows():
    progress = TrainingProgress(num_epochs=0)
    assert describe_training(progress.state()) == "starting the workers"
    progress.begin("answering the questions to fit scores", num_windows=1200)
    progress.add_windows(1100)
    assert describe_training(progress.state()) == "answering the questions to fit scores, 1,100 of 1,200 windows"
    progress.add_windows(200)  # a group that did not fit into memory is begun again in halves
    assert describe_training(progress.state()).endswith("1,200 of 1,200 windows")
    progress.begin("saving the model")
    assert describe_training(progress.state()) == "saving the model"
